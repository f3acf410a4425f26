-- Decides on requests, one after the other, each by several policies at once. All policies are checked before any permit is spent,
-- so a denied request spends no permit.
-- The algorithms' files come before this one. Each defines a function
--   (state, now, limit, window, cost, granted) -> wait, available, reset, next state, its time to live
-- Every state is one string, and one command sets it together with its expiry, so that no crash can separate the two.
-- KEYS     the states of the first request's policies, then of the next one's
-- ARGV     1 if the reply must name the server, else 0. Then for each request: how many policies, and for each of them algorithm,
--          limit, window in milliseconds, cost, how many further permits to lease, and time and server of the grant if the cost
--          is below zero: it refunds permits, and another server than the one that granted them refunds nothing.
-- Returns  Redis's time, the server, and for each policy four integers: wait, available, reset and leased; see Permits in
--          Algorithm.cs. The leased permits are not in `available`. The server is 0 if the call did not request it, or if this user may
--          not run INFO: then no permit is leased or refunded.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local server = 0
if ARGV[1] == '1' then
  local info = redis.pcall('INFO', 'server')
  server = type(info) == 'string' and tonumber(string.sub(string.match(info, 'run_id:(%x+)'), 1, 12), 16) or 0
end
local reply, states, lives, lease = { now, server }, {}, {}, {}
local last, argument = 0, 2

while last < #KEYS do
  local first, denied = last + 1, false
  last = last + tonumber(ARGV[argument])
  for i = first, last do
    local state = redis.pcall('GET', KEYS[i])
    if type(state) ~= 'string' then
      state = '' -- the state does not exist, or the key holds foreign data
    end

    local decide, limit, window = algorithms[ARGV[argument + 1]], tonumber(ARGV[argument + 2]), tonumber(ARGV[argument + 3])
    local cost, further, granted = tonumber(ARGV[argument + 4]), tonumber(ARGV[argument + 5]), tonumber(ARGV[argument + 6])
    if cost < 0 and (server == 0 or tonumber(ARGV[argument + 7]) ~= server) then
      cost = 0
    end
    local wait, available, reset
    wait, available, reset, states[i], lives[i] = decide(state, now, limit, window, cost, granted)
    denied = denied or wait > 0
    reply[4 * i - 1], reply[4 * i], reply[4 * i + 1], reply[4 * i + 2] = wait, math.max(0, available), reset, 0
    lease[i] = function()
      local leased = math.min(further, math.floor((available - cost) / 16))
      if leased >= 1 and server ~= 0 then
        reply[4 * i], reply[4 * i + 2] = available - leased, leased
        local _
        _, _, reply[4 * i + 1], states[i], lives[i] = decide(states[i], now, limit, window, leased)
      end
    end
    argument = argument + 7
  end
  argument = argument + 1

  if not denied then
    for i = first, last do
      lease[i]()
      redis.call('SET', KEYS[i], states[i], 'PX', math.max(1, lives[i]))
    end
  end
end

return reply
