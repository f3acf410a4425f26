-- Counts an attempt to log in as a failure until it turns out well, so that attempts made at the same time count as well.
-- KEYS[1]  the failures of the account since the last success, and until when the next attempt must wait (milliseconds)
-- ARGV     how many failures are free, the first wait and the longest in milliseconds, how long failures are remembered
-- Returns for how many milliseconds the attempt must wait; 0 where it may go on, and is counted.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', KEYS[1], 'failures', 'until')
local failures, ends = tonumber(state[1]) or 0, tonumber(state[2]) or 0
if ends > now then
  return ends - now
end

failures = failures + 1
local over = failures - tonumber(ARGV[1])
local wait = over > 0 and math.min(tonumber(ARGV[3]), tonumber(ARGV[2]) * 2 ^ math.min(over - 1, 30)) or 0
redis.call('HSET', KEYS[1], 'failures', failures, 'until', string.format('%.0f', now + wait))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 0
