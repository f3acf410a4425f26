-- Before a write is given up: keeps the version that its row has now. Then the row gets a later version and the write's token as its fence,
-- so neither of them shows any more whether the row has a later write than another one (see write_behind_reaccept.lua). Consumers may give
-- up several writes of an entity at the same time, so each is kept until the row has a later fence.
-- KEYS[1]  the entity, see write_behind_accept.lua
-- ARGV[1]  the write's token
-- ARGV[2]  the row's version     ARGV[3]  the row's fence
-- ARGV[4]  for how long, in milliseconds, it is kept: longer than a write waits
local key = KEYS[1] .. ':given-up'
local kept = redis.call('HGETALL', key)
-- If the row's fence is that of a write that was given up, its version is not that of a write either.
local before = redis.call('HGET', key, ARGV[3]) or redis.call('HGET', key, 'anew ' .. ARGV[3]) or ARGV[2]
redis.call('HSETNX', key, ARGV[1], before)
redis.call('PEXPIRE', key, ARGV[4])
for i = 1, #kept, 2 do
  if tonumber(string.match(kept[i], '%d+')) < tonumber(ARGV[3]) and kept[i] ~= ARGV[1] then
    redis.call('HDEL', key, kept[i])
  end
end
