-- Gives a synchronous write its turn among the writes of an entity: a token later than all earlier ones, and a version of its own.
-- KEYS[1]  the last token     KEYS[2]  the entity, see write_behind_accept.lua
-- ARGV[1]  the fence of the row; the new token will be later. 0 if it is not known
-- ARGV[2]  for how long, in milliseconds, the state of an entity is kept
-- Returns the token, the version (0: the row's plus 1), and of the pending write its token, its version, and the highest fence that it
-- may overwrite (0, 0 and -1: none is pending).
local time = redis.call('TIME')
local last = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[1]))
local token = math.max(time[1] * 1000000 + time[2], last + 1)
redis.call('SET', KEYS[1], string.format('%.0f', token))

local held = redis.call('HMGET', KEYS[2], 'floor', 'token', 'version', 'over')
local version = 0
if held[1] then
  version = redis.call('HINCRBY', KEYS[2], 'floor', 1)
else
  redis.call('HINCRBY', KEYS[2], 'turns', 1)
end
redis.call('HSET', KEYS[2], 'issued', string.format('%.0f', token))
if not held[2] then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return { token, version, 0, 0, -1 }
end
return { token, version, tonumber(held[2]), tonumber(held[3]), tonumber(held[4] or held[2] - 1) }
