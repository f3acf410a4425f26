-- After the deletion of an entity: drops its dead letters and prevents new ones, because they contain its data.
-- KEYS[1]  the dead letters   KEYS[2]  the entity's own list of their ids   KEYS[3]  the entity, see write_behind_accept.lua
-- ARGV[1]  for how long, in milliseconds, the deletion is kept: longer than a write waits
-- Returns how many were dropped.
local letters = redis.call('LRANGE', KEYS[2], 0, -1)
redis.call('SET', KEYS[3] .. ':gone', '', 'PX', ARGV[1])
redis.call('DEL', KEYS[2])
return #letters > 0 and redis.call('XDEL', KEYS[1], unpack(letters)) or 0
