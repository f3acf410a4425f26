-- Removes finished writes from the queue. A write that could not be persisted becomes one dead letter, even if several processes tried,
-- unless the entity has been deleted (see write_behind_forget.lua).
-- KEYS[1]  the queue       KEYS[2]  the dead letters       KEYS[3...]  the entity of each write, see write_behind_accept.lua
-- ARGV[1]  the consumer group
-- ARGV[2]  for how long, in milliseconds, the state of an entity is kept
-- ARGV[3]  the maximum number of dead letters    ARGV[4]  the maximum of one entity: a list holds their ids, and the oldest one is
--          removed first, so that one user cannot displace the dead letters of all others
-- ARGV[5...]  of each write its token, the version that the entity has now, and why it is a dead letter ('': it is not)
-- Returns how many became dead letters.
local done, dead_letters = {}, 0
for i = 3, #KEYS do
  local at = 5 + (i - 3) * 3
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
  end
  if reason == '' then
    redis.call('HDEL', KEYS[i] .. ':given-up', token) -- it was persisted after all, see write_behind_give_up.lua
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
