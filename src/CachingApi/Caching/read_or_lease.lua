-- Reads an entry; where it is not fresh, asks for the lease: the right to load it, for one process at a time.
-- KEYS[1]  the entry         KEYS[2]  its lease
-- ARGV[1]  the asker's token
-- ARGV[2]  the lease's time to live in milliseconds
-- ARGV[3]  what is fresh beyond this time, in Unix milliseconds, needs no load
-- ARGV[4]  magic and hash of the key, as the entry's header must have them
-- Returns the entry, or '', and 0: it is fresh, 1: the lease is yours, 2: another holds it.
local FRESH_UNTIL, HEADER = 29, 48

local entry = redis.pcall('GET', KEYS[1])
local readable = type(entry) == 'string' and #entry >= HEADER and string.sub(entry, 1, 2) .. string.sub(entry, 5, 12) == ARGV[4]
if not readable then
  entry = ''
elseif struct.unpack('>i8', entry, FRESH_UNTIL) > tonumber(ARGV[3]) then
  return { entry, 0 }
end

if redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2], 'NX') then
  return { entry, 1 }
end

-- The holder learns that somebody waits, and will say when it is done.
local holder = redis.call('GET', KEYS[2])
if string.sub(holder, -1) ~= '+' then
  redis.call('SET', KEYS[2], holder .. '+', 'KEEPTTL')
end
return { entry, 2 }
