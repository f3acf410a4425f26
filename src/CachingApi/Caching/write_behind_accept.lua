-- Takes a write that is to be written behind: bound, pending value and queue in one step, so that none is without the others.
-- KEYS[1]  the queue       KEYS[2]  the last token
-- KEYS[3]  the thing: version and floor (see below), turns, and of the write that is pending token and value
-- ARGV[1]  how many writes the queue holds at most
-- ARGV[2]  the thing's id
-- ARGV[3]  its version as the caller read it
-- ARGV[4]  the versions that may be changed, as ',1,2,'; '' for any
-- ARGV[5]  the new value
-- Returns 0, the new version and the token: taken; 1 and 0: the queue is full; 2 and 0: the version is another; 3 and 0: a synchronous
-- writer is about, so that only the database can tell the version.
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return { 1, 0, 0 }
end

-- The floor is the highest version that was given out. Of a turn taken while none was known, the writer adds 1 to the row's.
local held = redis.call('HMGET', KEYS[3], 'version', 'floor', 'turns')
local current = math.max(tonumber(ARGV[3]), tonumber(held[1] or 0))
local floor, turns = math.max(current, tonumber(held[2] or 0)), tonumber(held[3] or 0)
if ARGV[4] ~= '' then
  if floor > current or turns > 0 then
    return { 3, 0, 0 }
  end
  if not string.find(ARGV[4], string.format(',%.0f,', current), 1, true) then
    return { 2, 0, 0 }
  end
end

local time = redis.call('TIME')
local token = string.format('%.0f', math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[2]) or 0) + 1))
local version = string.format('%.0f', floor + turns + 1)
redis.call('SET', KEYS[2], token)
redis.call('XADD', KEYS[1], token .. '-0', 'id', ARGV[2], 'version', version, 'value', ARGV[5])
redis.call('HSET', KEYS[3], 'token', token, 'version', version, 'floor', version, 'value', ARGV[5])
if held[3] then
  redis.call('HDEL', KEYS[3], 'turns')
end
if not held[1] then
  redis.call('PERSIST', KEYS[3]) -- until the write is done with
end
return { 0, tonumber(version), tonumber(token) }
