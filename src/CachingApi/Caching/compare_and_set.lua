-- Sets an entry, unless one of a newer version is held: nothing puts an older value over a newer one.
-- A fill needs the lease it was loaded under; a write breaks the lease, so that what is being loaded is not kept.
-- KEYS[1]  the entry         KEYS[2]  its lease
-- ARGV[1]  the new entry: header and body, see CacheEntry.cs
-- ARGV[2]  its time to live in milliseconds
-- ARGV[3]  for a fill the lease's token, for a write ''
-- ARGV[4]  the backplane's channel
-- ARGV[5]  what the other processes are told of a write
-- ARGV[6]  what those are told that wait for the lease
-- Returns 0 and '': set; 1 and the entry that is held: it is as good or newer; 2 and '': the lease is lost.
local KIND, VERSION, HEADER = 3, 13, 48
local TOMBSTONE = 2

local fill = ARGV[3] ~= ''
local lease = redis.call('GET', KEYS[2])
if fill and lease ~= ARGV[3] and lease ~= ARGV[3] .. '+' then
  return { 2, '' }
end

local held = redis.pcall('GET', KEYS[1])
local readable = type(held) == 'string' and #held >= HEADER
  and string.sub(held, 1, 2) == string.sub(ARGV[1], 1, 2) and string.sub(held, 5, 12) == string.sub(ARGV[1], 5, 12)
-- A tombstone voids what is older; an entry of its own version may stay.
local lead = readable and struct.unpack('>i8', held, VERSION) - struct.unpack('>i8', ARGV[1], VERSION)
local tombstone = string.byte(ARGV[1], KIND) == TOMBSTONE and struct.unpack('>i8', ARGV[1], VERSION) > 0
local refused = readable and (lead > 0 or lead == 0 and tombstone)

if not refused then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  if lease then
    redis.call('DEL', KEYS[2])
    if string.sub(lease, -1) == '+' then
      redis.call('PUBLISH', ARGV[4], ARGV[6])
    end
  end
end

-- Also where it was refused: the newer entry may be a reader's fill, of which nobody was told.
if not fill then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end

if refused then
  return { 1, held }
end
return { 0, '' }
