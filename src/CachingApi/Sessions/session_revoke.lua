-- Ends all sessions of a user that have begun up to now.
-- KEYS[1]  the time up to which the user's sessions are revoked, in microseconds
-- ARGV[1]  the absolute limit of a session in milliseconds: none of those meant lives longer
local time = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', time[1] * 1000000 + time[2]), 'PX', ARGV[1])
return nil
