-- Gives an end of sessions a number later than every earlier number, and publishes it together with the previous number.
-- KEYS[1]  the number of the last end: the time in microseconds
-- ARGV[1]  the channel of the sessions      ARGV[2]  the user of the ended sessions
local time = redis.call('TIME')
local before = redis.call('GET', KEYS[1]) or '0'
local number = string.format('%.0f', math.max(time[1] * 1000000 + time[2], tonumber(before) + 1))
redis.call('SET', KEYS[1], number, 'EX', 86400)
return redis.call('PUBLISH', ARGV[1], 'counted ' .. before .. ' ' .. number .. ' ' .. ARGV[2])
