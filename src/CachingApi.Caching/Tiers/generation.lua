-- The generation of a cache: part of every key in it, so that a new one clears the whole cache at once. It is the time in microseconds,
-- so a generation that was lost (a flush, an eviction) is never issued a second time.
-- If an incarnation of a server that the cache depends on is new (the server was restarted from an older snapshot, or a replica with
-- less data was promoted), the cache moves on once, when the first process asks.
-- KEYS[1]  the generation
-- KEYS[2]  the incarnations that it has moved on for
-- KEYS[3]  the causes of its last changes
-- ARGV[1]  'current'; 'next'; 'unless': the next one, unless every cause below is a cause of an earlier change
-- ARGV[2]  the backplane's channel
-- ARGV[3]  the message to the other processes about a new generation, which replaces %s in it
-- ARGV[4]  a generation that the caller has seen: no earlier one is returned
-- ARGV[5]  for how long, in milliseconds, causes are kept
-- ARGV[6]  how many incarnations follow, each an id
-- then     the causes, each as a field, the entity's id, its version and its fence
-- Returns the generation and the time in milliseconds.
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local held, seen = tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[4])
local moves = held == 0 or held < seen or ARGV[1] == 'next'

local at = 7 + tonumber(ARGV[6])
for i = 7, at - 1 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], now) == 1 then
    moves = true
  end
end
redis.call('PEXPIRE', KEYS[2], 30 * 24 * 3600 * 1000)

for i = at, #ARGV, 4 do
  local field, id, version, fence = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local last = redis.call('HGET', KEYS[3], field)
  local _, _, of, v, f = string.find(last or '', '^(.*) (%d+) (%d+)$')
  local caused = of == id and (tonumber(v) > version or tonumber(v) == version and tonumber(f) >= fence)
  if not caused then
    redis.call('HSET', KEYS[3], field, string.format('%s %.0f %.0f', id, version, fence))
    moves = true
  end
end
if #ARGV >= at then
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end

if moves then
  held = math.max(held + 1, seen + 1, micros)
  local text = string.format('%.0f', held)
  redis.call('SET', KEYS[1], text)
  redis.call('PUBLISH', ARGV[2], string.format(ARGV[3], text))
end

return { held, now }
