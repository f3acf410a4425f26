-- The generation of a namespace: part of every key in it, so that a new one drops all of its entries at once.
-- It comes from the clock, so one that was lost (a flush, an eviction) is never given out a second time.
-- KEYS[1]  the generation
-- ARGV[1]  'current' or 'next'
-- ARGV[2]  the backplane's channel
-- ARGV[3]  what the other processes are told of a new generation, which is put in the place of %s
-- Returns the generation.
local held = tonumber(redis.call('GET', KEYS[1]) or 0)

if held == 0 or ARGV[1] == 'next' then
  local now = redis.call('TIME')
  held = math.max(held + 1, now[1] * 1000 + math.floor(now[2] / 1000))
  local text = string.format('%.0f', held)
  redis.call('SET', KEYS[1], text)
  redis.call('PUBLISH', ARGV[2], string.format(ARGV[3], text))
end

return held
