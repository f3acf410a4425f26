-- Token bucket. State: missing, at; 8 bytes each. See TokenBucket.cs.
algorithms['token-bucket'] = function(state, now, limit, window, cost, granted)
  local missing, at = 0, now
  if #state == 16 then
    missing, at = struct.unpack('>i8i8', state)
  end
  if at > now + window then
    missing, at = 0, now
  end
  missing, at = math.max(0, missing - math.max(0, now - at) * limit), math.max(now, at)

  local charge = cost * window
  if cost < 0 and granted then
    charge = math.min(0, charge + math.max(0, at - granted) * limit)
  end

  local available = math.floor((limit * window - missing) / window)
  local short = math.ceil((missing + charge - limit * window) / limit)
  local wait = short > 0 and at - now + short or 0
  if wait == 0 then
    missing = math.max(0, missing + charge)
  end

  local tokens = math.max(0, math.floor((limit * window - missing) / window))
  local reset = at - now + math.max(0, math.ceil((missing + (tokens + 1) * window - limit * window) / limit))
  return wait, available, reset, struct.pack('>i8i8', missing, at), at - now + math.ceil(missing / limit)
end
