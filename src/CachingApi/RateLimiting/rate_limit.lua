-- Decides on one request by several policies at once: all are checked before any is spent, so a denied request spends nothing.
-- The files of the algorithms stand before this one, each a function
--   (state, now, limit, window, cost) -> wait, available, reset, next state, its time to live
-- Every state is one string, and each is set together with its expiry: nothing can come between the two.
-- KEYS[i]  the state of policy i
-- ARGV     for each policy: algorithm, limit, window in milliseconds, cost (below zero it gives permits back)
-- Returns for each policy three integers, see Permits in Algorithm.cs.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply, states, lives, denied = {}, {}, {}, false

for i, key in ipairs(KEYS) do
  local state = redis.pcall('GET', key)
  if type(state) ~= 'string' then
    state = '' -- none, or something foreign
  end

  local limit, window, cost = tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  local wait, available, reset
  wait, available, reset, states[i], lives[i] = algorithms[ARGV[4 * i - 3]](state, now, limit, window, cost)
  denied = denied or wait > 0
  reply[3 * i - 2], reply[3 * i - 1], reply[3 * i] = wait, math.max(0, available), reset
end

if not denied then
  for i, key in ipairs(KEYS) do
    redis.call('SET', key, states[i], 'PX', math.max(1, lives[i]))
  end
end

return reply
