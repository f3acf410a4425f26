-- Takes back an attempt that login_attempt.lua has counted, because no password was checked.
-- KEYS     the keys that counted the attempt
-- ARGV[1]  the attempt's id: the wait of the next attempt ends, unless a later attempt has set it
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('HGET', key, 'failures') or 0) > 0 then
    redis.call('HINCRBY', key, 'failures', -1)
    if redis.call('HGET', key, 'by') == ARGV[1] then
      redis.call('HDEL', key, 'until')
    end
  end
end
