-- Publishes a heartbeat with the number of the last end of sessions. A server that has none, because it is new or has lost its data,
-- begins with one that no process knows.
-- KEYS[1]  the number of the last end: the time in microseconds
-- ARGV[1]  the channel of the sessions      ARGV[2]  the heartbeat
local number = redis.call('GET', KEYS[1])
if not number then
  local time = redis.call('TIME')
  number = string.format('%.0f', time[1] * 1000000 + time[2])
  redis.call('SET', KEYS[1], number, 'EX', 86400)
elseif redis.call('TTL', KEYS[1]) < 43200 then
  redis.call('EXPIRE', KEYS[1], 86400) -- not each time: an append-only file would get each heartbeat
end

return redis.call('PUBLISH', ARGV[1], ARGV[2] .. ' ' .. number)
