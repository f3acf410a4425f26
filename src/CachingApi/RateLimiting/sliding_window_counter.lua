-- Sliding window, by two counters. State: start, current, previous; 8 bytes each. See SlidingWindowCounter.cs.
algorithms['sliding-window-counter'] = function(state, now, limit, window, cost, granted)
  local at, current, previous = 0, 0, 0
  if #state == 24 then
    at, current, previous = struct.unpack('>i8i8i8', state)
  end

  local clock = at <= now + window and math.max(now, at) or now
  local start = clock - clock % window
  local left = start + window - clock
  if at == start - window then
    current, previous = 0, current
  elseif at ~= start then
    current, previous = 0, 0
  end
  if cost < 0 and granted and granted - granted % window ~= start then
    cost = 0
  end

  local weighted = math.ceil(previous * left / window)
  local function until_free(permits)
    local room = limit - current - permits
    if weighted <= room then
      return 0
    elseif room >= 0 then
      return clock - now + left - math.floor(room * window / previous)
    end

    -- Not before the current window has become the previous one.
    return clock - now + left
      + (current == 0 and 0 or window - math.min(window, math.floor(math.max(0, limit - permits) * window / current)))
  end

  local available = limit - current - weighted
  local wait = until_free(cost)
  if wait == 0 then
    current = math.max(0, current + cost)
  end

  local reset = until_free(math.max(0, limit - current - weighted) + 1)
  return wait, available, reset, struct.pack('>i8i8i8', start, current, previous), start + 2 * window - now
end
