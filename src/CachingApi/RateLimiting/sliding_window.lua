-- Sliding window, as a log. State: the time of each permit spent, 8 bytes each, oldest first. See SlidingWindow.cs.
algorithms['sliding-window'] = function(state, now, limit, window, cost)
  local function at(permit)
    return (struct.unpack('>i8', state, 8 * permit - 7))
  end

  -- The permits that have left the window come first: find the first one that has not.
  local count = math.floor(#state / 8)
  local first, beyond = 1, count + 1
  while first < beyond do
    local middle = math.floor((first + beyond) / 2)
    if at(middle) + window <= now then
      first = middle + 1
    else
      beyond = middle
    end
  end

  local stamp = now + 1
  if count > 0 and at(count) > now + window then
    first = count + 1
  elseif count > 0 then
    stamp = math.max(stamp, at(count))
  end

  local spent = count - first + 1
  local wait = 0
  if spent + cost > limit then
    wait = at(math.min(count, first + spent + cost - limit - 1)) + window - now
  end

  local oldest = spent == 0 and stamp or at(math.min(count, first + math.max(0, spent - limit)))
  local kept = string.sub(state, 8 * first - 7, 8 * math.max(0, count + math.min(0, cost)))
  return wait, limit - spent, math.min(window, oldest + window - now),
    kept .. string.rep(struct.pack('>i8', stamp), cost), stamp + window - now
end
