-- After a successful login: removes the client's failures, and records the client as known to the account.
-- KEYS[1]     the known networks and devices of the account, by the time of their last login
-- KEYS[2...]  the keys that counted the attempt, see login_attempt.lua
-- ARGV        the maximum number of known ones, and for how long after the last login (milliseconds); then the network, and the device
--             if there is one
redis.call('DEL', KEYS[2])
if KEYS[3] and tonumber(redis.call('HGET', KEYS[3], 'failures') or 0) > 0 then
  redis.call('HINCRBY', KEYS[3], 'failures', -1)
end

local now = redis.call('TIME')[1]
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], now, ARGV[i])
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[1]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
