-- What simultaneous requests need from the state server, one after the other: for each its session, then its permits. A request whose
-- session does not exist, or was issued for another transport, acquires no permits, so it spends none of the user that its token names.
-- KEYS     for each request: if it has a token, the keys of the session and of the user's revocation; then the states of its policies
-- ARGV     1 if the reply must name the server, else 0. Then for each request: how many policies; the transport of its token, empty if
--          it has none; for a token, the configured idle limit and the longest time until a use is recorded again; then the arguments of
--          each policy. See session_use.lua and rate_limit.lua.
-- Returns  an array of Redis's time, the server, and four integers for each policy, which are 0 if no permits were requested from it;
--          then for each token its session or nil. The server is 0 if the call did not request it, or if this user may not run INFO:
--          then no permit is leased or refunded.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local server = 0
if ARGV[1] == '1' then
  local info = redis.pcall('INFO', 'server')
  server = type(info) == 'string' and tonumber(string.sub(string.match(info, 'run_id:(%x+)'), 1, 12), 16) or 0
end
local permits, replies = { now, server }, {}
local key, argument = 1, 2

while key <= #KEYS do
  local policies, transport, valid = tonumber(ARGV[argument]), ARGV[argument + 1], true
  argument = argument + 2
  if transport ~= '' then
    local session = use(KEYS[key], KEYS[key + 1], tonumber(ARGV[argument]), tonumber(ARGV[argument + 1]), now)
    valid = session and session[3] == transport
    replies[#replies + 1] = session
    key, argument = key + 2, argument + 2
  end
  if valid then
    acquire(key, policies, argument, now, server, permits)
  else
    for _ = 1, 4 * policies do
      permits[#permits + 1] = 0
    end
  end
  key, argument = key + policies, argument + 7 * policies
end

return { permits, unpack(replies) }
