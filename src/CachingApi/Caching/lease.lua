-- Renews or gives back a lease, if it is still held.
-- KEYS[1]  the lease
-- ARGV[1]  its token
-- ARGV[2]  its new time to live in milliseconds; 0 gives it back
-- ARGV[3]  the backplane's channel
-- ARGV[4]  what those are told that wait for it, when it is given back
-- Returns 1, or 0 where it was lost.
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and held ~= ARGV[1] .. '+' then
  return 0
end

if ARGV[2] ~= '0' then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end

redis.call('DEL', KEYS[1])
if string.sub(held, -1) == '+' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return 1
