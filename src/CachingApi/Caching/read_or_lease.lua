-- Reads an entry; if it is not fresh, asks for the lease: the right to load it, for one process at a time.
-- KEYS[1]  the entry         KEYS[2]  its lease
-- ARGV[1]  the asker's token
-- ARGV[2]  the lease's time to live in milliseconds
-- ARGV[3]  an entry that is fresh beyond this time, in Unix milliseconds, needs no load
-- ARGV[4]  magic, format and hash of the key, as the header of a readable entry has them
-- ARGV[5]  the asker's time in Unix milliseconds
-- Returns the bytes that are held, or '', and 0: it is fresh, 1: the lease is yours, 2: another process holds it, 3: a load has
-- just failed, and a stale entry is there to serve meanwhile.
local FRESH_UNTIL, USABLE_UNTIL, HEADER = 37, 45, 64

local entry = redis.pcall('GET', KEYS[1])
if type(entry) ~= 'string' then
  entry = ''
end
local readable = #entry >= HEADER and string.sub(entry, 1, 2) .. string.sub(entry, 5, 12) == ARGV[4]
if readable and struct.unpack('>i8', entry, FRESH_UNTIL) > tonumber(ARGV[3]) then
  return { entry, 0 }
end

if redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2], 'NX') then
  return { entry, 1 }
end

local holder = redis.call('GET', KEYS[2])
if holder == '!' then -- the back-off that a failed load leaves, see lease.lua
  if readable and struct.unpack('>i8', entry, USABLE_UNTIL) > tonumber(ARGV[5]) then
    return { entry, 3 }
  end
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  return { entry, 1 }
end

-- The mark of a waiting process: the holder publishes a message when its load ends.
if string.sub(holder, -1) ~= '+' then
  redis.call('SET', KEYS[2], holder .. '+', 'KEEPTTL')
end
return { entry, 2 }
