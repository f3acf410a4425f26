-- Begins a session.
-- KEYS[1]  the session      KEYS[2]  the time up to which the user's sessions are revoked, in microseconds
-- KEYS[3]  the index: the id of each of the user's sessions, and the hash of its token, which is the end of its key. Revocation
--          empties the index, so no session in it is revoked.
-- ARGV     id, role, transport, device, idle limit and absolute limit in milliseconds, the maximum number of sessions of a user,
--          the channel of the sessions, and the message for the processes that have the session in memory that this one replaces
-- Returns the time at which the session ends if it is not used, in Unix milliseconds, and 1 if it has replaced another session.
local HASH = 64
local prefix, hash = string.sub(KEYS[1], 1, -HASH - 1), string.sub(KEYS[1], -HASH)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local born = math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[2]) or 0) + 1)
local idle, absolute, ended = tonumber(ARGV[5]), tonumber(ARGV[6]), 0

-- The index is bounded: ended sessions are removed from it first, then the session that was not used for the longest time.
if redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[7]) then
  local index, alive, oldest = redis.call('HGETALL', KEYS[3]), 0, nil
  for i = 1, #index, 2 do
    local held = redis.call('HMGET', prefix .. index[i + 1], 'seen')
    if not held[1] then
      redis.call('HDEL', KEYS[3], index[i])
    else
      alive = alive + 1
      if not oldest or tonumber(held[1]) < oldest.seen then
        oldest = { seen = tonumber(held[1]), id = index[i], hash = index[i + 1] }
      end
    end
  end

  if alive >= tonumber(ARGV[7]) then
    redis.call('HDEL', KEYS[3], oldest.id)
    redis.call('UNLINK', prefix .. oldest.hash)
    redis.call('PUBLISH', ARGV[8], ARGV[9])
    ended = 1
  end
end

redis.call('HSET', KEYS[1], 'id', ARGV[1], 'role', ARGV[2], 'transport', ARGV[3], 'device', ARGV[4],
  'created', string.format('%.0f', now), 'born', string.format('%.0f', born), 'seen', string.format('%.0f', now),
  'until', string.format('%.0f', now + absolute), 'idle', string.format('%.0f', idle))
redis.call('PEXPIRE', KEYS[1], math.min(idle, absolute))
redis.call('HSET', KEYS[3], ARGV[1], hash)
redis.call('PEXPIRE', KEYS[3], absolute)
return { now + math.min(idle, absolute), ended }
