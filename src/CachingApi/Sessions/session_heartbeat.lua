-- Publishes a heartbeat with the number of the last end of sessions. If the server has no number, because it is new or has lost its data,
-- the script creates one that no process has received.
-- KEYS[1]  the number of the last end: the time in microseconds
-- ARGV[1]  the channel of the sessions      ARGV[2]  the heartbeat
local number = redis.call('GET', KEYS[1])
if not number then
  local time = redis.call('TIME')
  number = string.format('%.0f', time[1] * 1000000 + time[2])
  redis.call('SET', KEYS[1], number, 'EX', 86400)
elseif redis.call('TTL', KEYS[1]) < 43200 then
  redis.call('EXPIRE', KEYS[1], 86400) -- not each time, because each call is written to the append-only file
end

return redis.call('PUBLISH', ARGV[1], ARGV[2] .. ' ' .. number)
