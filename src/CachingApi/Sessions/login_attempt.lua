-- Counts an attempt to log in as a failure until it has succeeded, so that simultaneous attempts count as well.
-- KEYS[1]  the failures of the client at this account since its last success, and until when the next attempt must wait
--          (milliseconds); kept for an hour after the last failure
-- KEYS[2]  the same for all unknown clients of the account, if this one is unknown; kept for an hour after the first failure, so that
--          one client alone, which its own count slows down, never fills it
-- ARGV     the first wait and the longest, and how long failures are kept, in milliseconds; how many failures are free in KEYS[1],
--          and in KEYS[2]; the id of this attempt
-- Returns for how many milliseconds the attempt must wait; 0 if it may go on, and was counted.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local failures, wait = {}, 0
for i, key in ipairs(KEYS) do
  local state = redis.call('HMGET', key, 'failures', 'until')
  failures[i] = tonumber(state[1]) or 0
  wait = math.max(wait, (tonumber(state[2]) or 0) - now)
end
if wait > 0 then
  return wait
end

for i, key in ipairs(KEYS) do
  local count = failures[i] + 1
  local over = count - tonumber(ARGV[3 + i])
  local pause = over > 0 and math.min(tonumber(ARGV[2]), tonumber(ARGV[1]) * 2 ^ math.min(over - 1, 30)) or 0
  redis.call('HSET', key, 'failures', count, 'until', string.format('%.0f', now + pause), 'by', ARGV[6])
  if i == 1 or redis.call('PTTL', key) < 0 then
    redis.call('PEXPIRE', key, ARGV[3])
  end
end
return 0
