-- No password was checked: what login_attempt.lua has counted does not count.
-- KEYS     what counted the attempt
-- ARGV[1]  its id: the wait of the next attempt ends if no later attempt has set it
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('HGET', key, 'failures') or 0) > 0 then
    redis.call('HINCRBY', key, 'failures', -1)
    if redis.call('HGET', key, 'by') == ARGV[1] then
      redis.call('HDEL', key, 'until')
    end
  end
end
