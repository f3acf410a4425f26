-- Renews or gives back a lease, if it is still held.
-- KEYS[1]  the lease
-- ARGV[1]  its token
-- ARGV[2]  its new time to live in milliseconds; 0 gives it back
-- ARGV[3]  the backplane's channel
-- ARGV[4]  the message to those that wait for it, when it is given back
-- ARGV[5]  when it is given back: for how long, in milliseconds, no load is begun while a stale entry can be served; 0 for none
-- Returns 1, or 0 if it was lost.
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and held ~= ARGV[1] .. '+' then
  return 0
end

if ARGV[2] ~= '0' then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end

if ARGV[5] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], '!', 'PX', ARGV[5])
end
if string.sub(held, -1) == '+' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return 1
