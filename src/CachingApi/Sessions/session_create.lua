-- Begins a session.
-- KEYS[1]  the session      KEYS[2]  the time up to which the user's sessions are revoked, in microseconds
-- ARGV     id, role, transport, device, idle limit and absolute limit in milliseconds
-- Returns the time at which it ends if it is not used, in Unix milliseconds.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local born = math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[2]) or 0) + 1)
local idle, absolute = tonumber(ARGV[5]), tonumber(ARGV[6])

redis.call('HSET', KEYS[1], 'id', ARGV[1], 'role', ARGV[2], 'transport', ARGV[3], 'device', ARGV[4],
  'born', string.format('%.0f', born), 'seen', string.format('%.0f', now), 'until', string.format('%.0f', now + absolute))
redis.call('PEXPIRE', KEYS[1], math.min(idle, absolute))
return now + math.min(idle, absolute)
