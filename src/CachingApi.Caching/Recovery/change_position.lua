-- Moves the position up to which this Redis has the changes of the database, if it is where the leader left it.
-- KEYS[1]  the position
-- ARGV[1]  where the leader left it
-- ARGV[2]  the new one
-- Returns 1, or 0 if it is another: this Redis has lost data since, or another leader is at work.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
