-- Accepts a write for write-behind: checks the bound, sets the pending value and appends to the queue, in one step.
-- KEYS[1]  the queue       KEYS[2]  the last token
-- KEYS[3]  the entity: version and floor (see below), turns, the last token issued to it, and of the pending write its token, its
--          value, and the highest fence that it may overwrite
-- ARGV[1]  how many writes the queue holds at most
-- ARGV[2]  the entity's id
-- ARGV[3]  its version as the caller read it
-- ARGV[4]  the fence of its row as the caller read it; the token will be later. 0 if it is not known
-- ARGV[5]  the versions that the entity may have, as ',1,2,'; '' for any
-- ARGV[6]  the new value
-- Returns 0, the new version and the token: accepted; 1 and 0: the queue is full; 2 and 0: the version is another; 3 and 0: a synchronous
-- write is under way, so only the database has the version.
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return { 1, 0, 0 }
end

-- The floor is the highest version that was issued. If a turn was taken while no version was known, its writer adds 1 to the row's.
local held = redis.call('HMGET', KEYS[3], 'version', 'floor', 'turns')
local current = math.max(tonumber(ARGV[3]), tonumber(held[1] or 0))
local floor, turns = math.max(current, tonumber(held[2] or 0)), tonumber(held[3] or 0)
if ARGV[5] ~= '' then
  if floor > current or turns > 0 then
    return { 3, 0, 0 }
  end
  if not string.find(ARGV[5], string.format(',%.0f,', current), 1, true) then
    return { 2, 0, 0 }
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(ARGV[4]))
local number = math.max(now, last + 1)
local token, over = string.format('%.0f', number), string.format('%.0f', number - 1)
local version = string.format('%.0f', floor + turns + 1)
redis.call('SET', KEYS[2], token)
redis.call('XADD', KEYS[1], token .. '-0',
  'id', ARGV[2], 'version', version, 'over', over, 'at', string.format('%.0f', now), 'value', ARGV[6])
redis.call('HSET', KEYS[3], 'token', token, 'issued', token, 'over', over, 'version', version, 'floor', version, 'value', ARGV[6])
if held[3] then
  redis.call('HDEL', KEYS[3], 'turns')
end
if not held[1] then
  redis.call('PERSIST', KEYS[3]) -- until the write is finished
end
return { 0, tonumber(version), tonumber(token) }
