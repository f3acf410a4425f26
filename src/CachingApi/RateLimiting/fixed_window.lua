-- Fixed window. State: 'start spent'. See FixedWindow.cs.
algorithms['fixed-window'] = function(state, now, limit, window, cost)
  local start = now - now % window
  local left = start + window - now
  local at, spent = string.match(state, '^(%d+) (%d+)$')
  spent = tonumber(at) == start and tonumber(spent) or 0

  local wait = spent + cost > limit and left or 0
  return wait, limit - spent, left, string.format('%.0f %.0f', start, math.max(0, spent + cost)), left
end
