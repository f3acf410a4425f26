-- Sliding window, by two counters. State: 'start current previous'. See SlidingWindowCounter.cs.
algorithms['sliding-window-counter'] = function(state, now, limit, window, cost)
  local start = now - now % window
  local left = start + window - now
  local at, current, previous = string.match(state, '^(%d+) (%d+) (%d+)$')
  at, current, previous = tonumber(at), tonumber(current), tonumber(previous)
  if at == start - window then
    current, previous = 0, current
  elseif at ~= start then
    current, previous = 0, 0
  end

  local weighted = math.ceil(previous * left / window)
  local function until_free(permits)
    local room = limit - current - permits
    if weighted <= room then
      return 0
    elseif room >= 0 then
      return left - math.floor(room * window / previous)
    end

    -- Not before this window is the previous one.
    return left + (current == 0 and 0 or window - math.min(window, math.floor(math.max(0, limit - permits) * window / current)))
  end

  local available = limit - current - weighted
  local wait = until_free(cost)
  if wait == 0 then
    current = math.max(0, current + cost)
  end

  local reset = until_free(math.max(0, limit - current - weighted) + 1)
  return wait, available, reset, string.format('%.0f %.0f %.0f', start, current, previous), left + window
end
