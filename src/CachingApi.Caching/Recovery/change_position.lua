-- Moves the position up to which this Redis has the changes of the database, if it is still the one that the leader set last.
-- KEYS[1]  the position
-- ARGV[1]  the position that the leader set last
-- ARGV[2]  the new one
-- Returns 1, or 0 if the position is another one: this Redis has lost data since, or another leader is active.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
