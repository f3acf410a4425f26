-- Spends one call of the upstream's budget, unless one of its windows is spent; or records that the upstream reports a spent window.
-- Windows follow the calendar (UTC), as the upstream's do.
-- KEYS[1]     a hash: for each window its number, the calls spent in it, and how many of them on new cities
-- ARGV[1..3]  how many calls are allowed per minute, hour and day
-- ARGV[4]     0, or the window that the upstream reports as spent: 1 the minute, 2 the hour, 3 the day
-- ARGV[5]     1 if the call is for a new city: at most half of each window is for new cities, but not less than two cities need
-- Returns how many seconds to wait, 0 if the call may be made; and the rest of the three windows.
local SECONDS = { 60, 3600, 86400 }
local TWO_CITIES = 4

local now = tonumber(redis.call('TIME')[1])
local held = redis.call('HMGET', KEYS[1], 'window1', 'window2', 'window3', 'spent1', 'spent2', 'spent3', 'new1', 'new2', 'new3')
local is_new = ARGV[5] == '1'
local window, spent, new, left, wait = {}, {}, {}, {}, 0
for i = 1, 3 do
  local limit = tonumber(ARGV[i])
  window[i] = math.floor(now / SECONDS[i])
  local same = tonumber(held[i]) == window[i]
  spent[i], new[i] = same and tonumber(held[3 + i]) or 0, same and tonumber(held[6 + i] or 0) or 0
  if i == tonumber(ARGV[4]) then
    spent[i] = math.max(spent[i], limit)
  end
  if spent[i] >= limit or (is_new and new[i] >= math.max(math.ceil(limit / 2), TWO_CITIES)) then
    wait = math.max(wait, (window[i] + 1) * SECONDS[i] - now)
  end
end

for i = 1, 3 do
  if wait == 0 then
    spent[i] = spent[i] + 1
    new[i] = new[i] + (is_new and 1 or 0)
  end
  left[i] = math.max(0, tonumber(ARGV[i]) - spent[i])
  redis.call('HSET', KEYS[1], 'window' .. i, window[i], 'spent' .. i, spent[i], 'new' .. i, new[i])
end
redis.call('EXPIRE', KEYS[1], SECONDS[3])
return { wait, left[1], left[2], left[3] }
