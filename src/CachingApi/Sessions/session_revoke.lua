-- Ends all sessions of a user that have begun up to now, except one if it is given; that one may continue under a new token.
-- KEYS[1]  the time up to which the user's sessions are revoked, in microseconds
-- KEYS[2]  the index        KEYS[3], KEYS[4]  the session that continues, and its new key (optional)
-- ARGV[1]  the absolute limit of a session in milliseconds: no revoked session lives longer
-- ARGV[2]  1 if the others end even if the session that should continue has ended: a thief may have ended it meanwhile
-- ARGV[3], ARGV[4]  the channel of the sessions, and the message for the processes that have the sessions in memory
-- Returns 1, or 0 if the session that should continue had already ended.
local HASH, INDEX = 64, 5
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local before = tonumber(redis.call('GET', KEYS[1]) or 0)
local revoked = math.max(now, before + 1)

local session = KEYS[3] and redis.call('HMGET', KEYS[3], 'id', 'born')
local goes_on = session and session[1] and tonumber(session[2]) > before
if KEYS[3] and not goes_on and ARGV[2] ~= '1' then
  return 0
end

redis.call('SET', KEYS[1], string.format('%.0f', revoked), 'PX', ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
-- Revoked sessions are refused in any case. They are removed because they contain the names of the user's devices.
local prefix = string.sub(KEYS[2], 1, -INDEX - 1)
for _, hash in ipairs(redis.call('HVALS', KEYS[2])) do
  if prefix .. hash ~= KEYS[3] then
    redis.call('UNLINK', prefix .. hash)
  end
end
redis.call('UNLINK', KEYS[2])
if not goes_on then
  return KEYS[3] and 0 or 1
end

redis.call('HSET', KEYS[3], 'born', string.format('%.0f', revoked + 1))
if KEYS[3] ~= KEYS[4] then
  redis.call('RENAME', KEYS[3], KEYS[4])
end
redis.call('HSET', KEYS[2], session[1], string.sub(KEYS[4], -HASH))
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
