-- No password was checked: what login_attempt.lua has counted does not count.
-- KEYS  what counted the attempt
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('HGET', key, 'failures') or 0) > 0 then
    redis.call('HINCRBY', key, 'failures', -1)
  end
end
