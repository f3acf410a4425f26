-- Takes writes that are done with off the queue. What could not be persisted becomes a dead letter, once, whichever process tried, unless
-- the entity has been deleted (see write_behind_forget.lua).
-- KEYS[1]  the queue       KEYS[2]  the dead letters       KEYS[3...]  the entity of each write, see write_behind_accept.lua
-- ARGV[1]  the consumer group
-- ARGV[2]  for how long, in milliseconds, what is known of an entity is kept
-- ARGV[3]  how many dead letters are kept in all    ARGV[4]  how many of one entity: their ids are in a list of its own, by which the
--          oldest one gives way, so that one user cannot displace the dead letters of all others
-- ARGV[5]  for how long, in milliseconds, it is known which fence a row has because of a dead letter: longer than a write waits
-- ARGV[6...]  of each write its token, the version that the entity has now, and why it is dead ('': it is not)
-- Returns how many became dead letters.
local done, dead_letters = {}, 0
for i = 3, #KEYS do
  local at = 6 + (i - 3) * 3
  local token, version, reason = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local entry = token .. '-0'
  local dead = reason ~= '' and redis.call('XRANGE', KEYS[1], entry, entry)[1]
  if dead and redis.call('EXISTS', KEYS[i] .. ':gone') == 0 then
    local letter = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'token', token, 'reason', reason, unpack(dead[2]))
    local letters = KEYS[i] .. ':dead-letters'
    if redis.call('RPUSH', letters, letter) > tonumber(ARGV[4]) then
      redis.call('XDEL', KEYS[2], redis.call('LPOP', letters))
    end
    dead_letters = dead_letters + 1
    redis.call('SET', KEYS[i] .. ':dead', token, 'PX', ARGV[5]) -- the fence that its row has now, see write_behind_reaccept.lua
  end
  done[#done + 1] = entry

  local held = redis.call('HMGET', KEYS[i], 'token', 'floor')
  if held[1] == token then
    redis.call('HDEL', KEYS[i], 'token', 'over', 'version', 'value')
    if tonumber(version) > tonumber(held[2]) then
      redis.call('HSET', KEYS[i], 'floor', version)
    end
    held[1] = false
  end
  if not held[1] then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end

redis.call('XACK', KEYS[1], ARGV[1], unpack(done))
redis.call('XDEL', KEYS[1], unpack(done))
return dead_letters
