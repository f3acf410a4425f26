-- Records that the user of a session has just given the password. It changes only an existing session, so an ended one cannot come back.
-- KEYS[1]  the session
-- ARGV     the channel of the sessions, and the message for the processes that have the session in memory
if redis.call('EXISTS', KEYS[1]) == 1 then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'authenticated', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
  redis.call('PUBLISH', ARGV[1], ARGV[2])
end
