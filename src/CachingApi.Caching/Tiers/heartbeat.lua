-- Writes a key, and publishes a heartbeat only if this master has taken the write.
-- KEYS[1]  a key of this master
-- ARGV[1]  the backplane's channel
-- ARGV[2]  the heartbeat
redis.call('SET', KEYS[1], '', 'PX', 1000)
return redis.call('PUBLISH', ARGV[1], ARGV[2])
