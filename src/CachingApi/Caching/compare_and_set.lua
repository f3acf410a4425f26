-- Sets an entry, unless one of a newer version is held: no fill or write-through puts an older value over a newer one.
-- KEYS[1]  the entry
-- ARGV[1]  the new entry: header and body, see CacheEntry.cs
-- ARGV[2]  its time to live in milliseconds
-- Returns nil when set, else the entry that is held.
local MAGIC, VERSION, HEADER = 1, 13, 48

local held = redis.pcall('GET', KEYS[1])
local readable = type(held) == 'string' and #held >= HEADER
  and struct.unpack('>I2', held, MAGIC) == struct.unpack('>I2', ARGV[1], MAGIC)

if readable and struct.unpack('>i8', held, VERSION) > struct.unpack('>i8', ARGV[1], VERSION) then
  return held
end

redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return nil
