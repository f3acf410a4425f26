-- Token bucket. State: missing, at; 8 bytes each. See TokenBucket.cs.
algorithms['token-bucket'] = function(state, now, limit, window, cost)
  local missing, at = 0, now
  if #state == 16 then
    missing, at = struct.unpack('>i8i8', state)
  end
  if at > now + window then
    missing, at = 0, now
  end
  missing, at = math.max(0, missing - math.max(0, now - at) * limit), math.max(now, at)

  local available = math.floor((limit * window - missing) / window)
  local short = math.ceil((missing + cost * window - limit * window) / limit)
  local wait = short > 0 and at - now + short or 0
  if wait == 0 then
    missing = math.max(0, missing + cost * window)
  end

  local tokens = math.max(0, math.floor((limit * window - missing) / window))
  local reset = at - now + math.max(0, math.ceil((missing + (tokens + 1) * window - limit * window) / limit))
  return wait, available, reset, struct.pack('>i8i8', missing, at), at - now + math.ceil(missing / limit)
end
