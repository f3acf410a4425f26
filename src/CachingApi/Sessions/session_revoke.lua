-- Ends all sessions of a user that have begun up to now, however many, but one where it is told which; that one may go on
-- under a new token.
-- KEYS[1]  the time up to which the user's sessions are revoked, in microseconds
-- KEYS[2]  the index        KEYS[3], KEYS[4]  the session that goes on, and where it goes on (optional)
-- ARGV[1]  the absolute limit of a session in milliseconds: none of those meant lives longer
-- Returns 1, or 0 where the session that was to go on had ended before.
local HASH = 64
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local before = tonumber(redis.call('GET', KEYS[1]) or 0)
local revoked = math.max(now, before + 1)

if not KEYS[3] then
  redis.call('SET', KEYS[1], string.format('%.0f', revoked), 'PX', ARGV[1])
  redis.call('UNLINK', KEYS[2])
  return 1
end

local session = redis.call('HMGET', KEYS[3], 'id', 'born')
if not session[1] or tonumber(session[2]) <= before then
  return 0
end

redis.call('SET', KEYS[1], string.format('%.0f', revoked), 'PX', ARGV[1])
redis.call('HSET', KEYS[3], 'born', string.format('%.0f', revoked + 1))
if KEYS[3] ~= KEYS[4] then
  redis.call('RENAME', KEYS[3], KEYS[4])
end
redis.call('UNLINK', KEYS[2])
redis.call('HSET', KEYS[2], session[1], string.sub(KEYS[4], -HASH))
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
