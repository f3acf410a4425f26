-- Fixed window. State: start, spent; 8 bytes each. See FixedWindow.cs.
algorithms['fixed-window'] = function(state, now, limit, window, cost, granted)
  local at, spent = 0, 0
  if #state == 16 then
    at, spent = struct.unpack('>i8i8', state)
  end

  local clock = at <= now + window and math.max(now, at) or now
  local start = clock - clock % window
  local left = start + window - now
  if at ~= start then
    spent = 0
  end
  if cost < 0 and granted and granted - granted % window ~= start then
    cost = 0
  end

  local wait = spent + cost > limit and left or 0
  return wait, limit - spent, left, struct.pack('>i8i8', start, math.max(0, spent + cost)), left
end
