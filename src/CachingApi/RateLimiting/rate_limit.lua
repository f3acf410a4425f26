-- Decides on requests, one after the other, each by several policies at once: all are checked before any is spent, so a denied
-- request spends nothing.
-- The files of the algorithms stand before this one, each a function
--   (state, now, limit, window, cost) -> wait, available, reset, next state, its time to live
-- Every state is one string, and each is set together with its expiry: nothing can come between the two.
-- KEYS     the states of the first request's policies, then of the next one's
-- ARGV     for each request: how many policies, then for each of them algorithm, limit, window in milliseconds, cost (below
--          zero it gives permits back)
-- Returns for each policy three integers, see Permits in Algorithm.cs.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply, states, lives = {}, {}, {}
local last, argument = 0, 1

while last < #KEYS do
  local first, denied = last + 1, false
  last = last + tonumber(ARGV[argument])
  for i = first, last do
    local state = redis.pcall('GET', KEYS[i])
    if type(state) ~= 'string' then
      state = '' -- none, or something foreign
    end

    local limit, window, cost = tonumber(ARGV[argument + 2]), tonumber(ARGV[argument + 3]), tonumber(ARGV[argument + 4])
    local wait, available, reset
    wait, available, reset, states[i], lives[i] = algorithms[ARGV[argument + 1]](state, now, limit, window, cost)
    denied = denied or wait > 0
    reply[3 * i - 2], reply[3 * i - 1], reply[3 * i] = wait, math.max(0, available), reset
    argument = argument + 4
  end
  argument = argument + 1

  if not denied then
    for i = first, last do
      redis.call('SET', KEYS[i], states[i], 'PX', math.max(1, lives[i]))
    end
  end
end

return reply
