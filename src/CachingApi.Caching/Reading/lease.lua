-- Renews or releases a lease (see read_or_lease.lua), if no write has removed it and no other process has it.
-- KEYS[1]  the lease
-- ARGV[1]  its token
-- ARGV[2]  for how long it is renewed, in milliseconds; 0 releases it
-- ARGV[3]  for how long tokens are remembered, in milliseconds
-- ARGV[4]  the backplane's channel
-- ARGV[5]  the message to the waiting processes, on release
-- ARGV[6]  on release: for how long, in milliseconds, no load begins while a stale entry can be served; 0 for none
-- Returns 1, or 0 if the lease was lost.
local lease = redis.pcall('GET', KEYS[1])
local _, mark, tokens = string.match(type(lease) == 'string' and lease or '', '^(%d+) (.) (.*)$')
if not tokens or string.find(tokens, ARGV[1], 1, true) ~= 1 then
  return 0
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[1], string.format('%.0f %s %s', now + ARGV[2], mark, tokens), 'PX', ARGV[3])
  return 1
end

if ARGV[6] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], string.format('%.0f ! ', now + ARGV[6]), 'PX', ARGV[6])
end
if mark == '+' then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
return 1
