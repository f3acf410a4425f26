-- Decides on a request by several policies at once. All policies are checked before any permit is spent, so a denied request spends no
-- permit.
-- The algorithms' files come before this one. Each defines a function
--   (state, now, limit, window, cost, granted) -> wait, available, reset, next state, its time to live
-- Every state is one string, and one command sets it together with its expiry, so that no crash can separate the two.
-- first, policies  which KEYS are the states of the policies
-- argument         which ARGV is the first of theirs. For each policy: algorithm, limit, window in milliseconds, cost, how many further
--                  permits to lease, and time and server of the grant if the cost is below zero: it refunds permits, and another server
--                  than the one that granted them refunds nothing.
-- permits          gets four more integers for each policy: wait, available, reset and leased; see Permits in Algorithm.cs. The leased
--                  permits are not in `available`.
local function acquire(first, policies, argument, now, server, permits)
  local states, lives, lease, denied = {}, {}, {}, false
  local last = first + policies - 1
  for i = first, last do
    local state = redis.pcall('GET', KEYS[i])
    if type(state) ~= 'string' then
      state = '' -- the state does not exist, or the key holds foreign data
    end

    local decide, limit, window = algorithms[ARGV[argument]], tonumber(ARGV[argument + 1]), tonumber(ARGV[argument + 2])
    local cost, further, granted = tonumber(ARGV[argument + 3]), tonumber(ARGV[argument + 4]), tonumber(ARGV[argument + 5])
    if cost < 0 and (server == 0 or tonumber(ARGV[argument + 6]) ~= server) then
      cost = 0
    end
    local wait, available, reset
    wait, available, reset, states[i], lives[i] = decide(state, now, limit, window, cost, granted)
    denied = denied or wait > 0
    local at = #permits
    permits[at + 1], permits[at + 2], permits[at + 3], permits[at + 4] = wait, math.max(0, available), reset, 0
    lease[i] = function()
      local leased = math.min(further, math.floor((available - cost) / 16))
      if leased >= 1 and server ~= 0 then
        permits[at + 2], permits[at + 4] = available - leased, leased
        local _
        _, _, permits[at + 3], states[i], lives[i] = decide(states[i], now, limit, window, leased)
      end
    end
    argument = argument + 7
  end

  if not denied then
    for i = first, last do
      lease[i]()
      redis.call('SET', KEYS[i], states[i], 'PX', math.max(1, lives[i]))
    end
  end
end
