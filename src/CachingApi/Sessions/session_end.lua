-- Ends one session of a user.
-- KEYS[1]  the index
-- ARGV[1]  the prefix of the sessions' keys, which are in the index's slot
-- ARGV[2]  the session's id, or ''        ARGV[3]  the hash of its token if its id is ''
-- ARGV[4], ARGV[5]  the channel of the sessions, and the message for the processes that have the session in memory
-- Returns 1, or 0 if the session did not exist any more.
local id, hash = ARGV[2], ARGV[3]
if id == '' then
  id = redis.call('HGET', ARGV[1] .. hash, 'id')
else
  hash = redis.call('HGET', KEYS[1], id)
end
if not id or not hash then
  return 0
end

redis.call('HDEL', KEYS[1], id)
redis.call('PUBLISH', ARGV[4], ARGV[5])
return redis.call('UNLINK', ARGV[1] .. hash)
