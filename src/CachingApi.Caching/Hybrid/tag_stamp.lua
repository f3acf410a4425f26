-- The stamp of a tag. An entry holds the stamps that its tags had before its load began, and is valid while they have them.
-- A stamp comes from the clock. If one was lost (a flush, an eviction), the next one differs from it, so the entries are invalid.
-- KEYS[1]  the stamp
-- ARGV[1]  'current': return the stamp, or create the first one; 'remove': replace the stamp and publish the new one
-- ARGV[2]  for how long it is kept, in milliseconds
-- ARGV[3]  the backplane's channel
-- ARGV[4]  the part of the message to other processes before the stamp     ARGV[5]  the part after it
-- Returns the stamp.
local held = tonumber(redis.call('GET', KEYS[1]) or 0)
if ARGV[1] == 'current' and held > 0 then
  return held
end

local time = redis.call('TIME')
local stamp = string.format('%.0f', math.max(held + 1, time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('SET', KEYS[1], stamp, 'PX', ARGV[2])
if ARGV[1] == 'remove' then
  redis.call('PUBLISH', ARGV[3], ARGV[4] .. stamp .. ARGV[5])
end
return tonumber(stamp)
