-- After the commit of a synchronous write: the version is known now, so the next write leaves no gap for it.
-- KEYS[1]  the entity, see write_behind_accept.lua
-- ARGV[1]  the version that was committed
-- ARGV[2]  for how long, in milliseconds, the state of an entity is kept
local held = redis.call('HMGET', KEYS[1], 'floor', 'turns', 'token')
redis.call('HSET', KEYS[1], 'floor', string.format('%.0f', math.max(tonumber(held[1] or 0), tonumber(ARGV[1]))))
if tonumber(held[2] or 0) > 0 then
  redis.call('HINCRBY', KEYS[1], 'turns', -1)
end
if not held[3] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
