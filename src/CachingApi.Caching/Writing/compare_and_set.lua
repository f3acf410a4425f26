-- Sets an entry, unless Redis holds a newer revision: an older value never replaces a newer one.
-- A fill needs the lease that it was loaded under (see read_or_lease.lua); a write removes the lease, so that a load under way is not kept.
-- KEYS[1]  the entry         KEYS[2]  its lease
-- ARGV[1]  the new entry: header and body, see CacheEntry.cs
-- ARGV[2]  its time to live in milliseconds
-- ARGV[3]  for a fill the lease's token, for a write ''
-- ARGV[4]  the backplane's channel
-- ARGV[5]  the message to the other processes about a write
-- ARGV[6]  the message to those that wait for the lease
-- ARGV[7]  the time, by this server's clock, before which no process knew the entry's revision ('': now)
-- ARGV[8]  for how long, in milliseconds, tombstones are kept
-- ARGV[9]  1 if the message is published: for a write, and for a fill that may replace a fresh entry
-- Returns the time in milliseconds, and: 0 and '': set; 1 and the stored entry: it is as new or newer; 2 and '': the new entry may be
-- older than a later write, because the lease is lost or the write is late.
local KIND, VERSION, FENCE, CREATED, BODY = 3, 13, 21, 29, 65
local NEGATIVE, TOMBSTONE = 1, 2
local UNHELD, SKEW = 1000, 1000

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local new, ttl, fill = ARGV[1], ARGV[2], ARGV[3] ~= ''
local version, fence = struct.unpack('>i8', new, VERSION), struct.unpack('>i8', new, FENCE)

local held = redis.pcall('GET', KEYS[1])
local ordered = type(held) == 'string' and #held >= CREATED - 1
  and string.byte(held) == string.byte(new) and string.sub(held, 5, 12) == string.sub(new, 5, 12)
local lead = 0
if ordered then
  -- Version, then fence, four bytes at a time: a Lua number does not hold all 64-bit integers.
  for at = VERSION, FENCE + 4, 4 do
    lead = lead == 0 and struct.unpack('>I4', held, at) - struct.unpack('>I4', new, at) or lead
  end
end

-- A fill is kept only if no write has come since its lease was granted: a write removes the lease. That check needs no tombstone, which
-- Redis may have evicted.
local lease = redis.pcall('GET', KEYS[2])
local mark, tokens = string.match(type(lease) == 'string' and lease or '', '^%d+ (.) (.*)$')
local place = fill and string.find(tokens or '', ARGV[3], 1, true)
if fill and not place then
  return { now, 2, '' }
end

-- A write may have been delayed for so long that the entry of a later write has expired or, if Redis holds no entry, was evicted. If
-- entries have no revision, the stored one does not refuse it.
local age = ARGV[7] ~= '' and now - tonumber(ARGV[7]) or 0
local refuses = ordered and (version > 0 or fence > 0)
-- "Not found" has no revision of its own: it may be from after a deletion that came after the write. So it counts if it was cached since
-- the write began, by clocks that differ by SKEW at most.
local missing = ordered and #held >= CREATED + 7 and string.byte(held, KIND) == NEGATIVE
  and struct.unpack('>i8', held, CREATED) + SKEW >= now - age
local late = not fill and string.byte(new, KIND) ~= TOMBSTONE
  and (missing or age >= (refuses and tonumber(ARGV[8]) or UNHELD))
if late then
  new = string.sub(new, 1, KIND - 1) .. string.char(TOMBSTONE) .. string.sub(new, KIND + 1, CREATED + 7)
    .. string.rep('\0', BODY - CREATED - 8)
  ttl = ARGV[8]
end

-- A tombstone keeps out older revisions; an entry of the same revision may stay.
local tombstone = string.byte(new, KIND) == TOMBSTONE and version > 0
local refused = ordered and (lead > 0 or lead == 0 and tombstone)

if not refused then
  redis.call('SET', KEYS[1], new, 'PX', ttl)
  -- The lease ends, unless another process has it by now, which may load a newer value.
  if not fill or place == 1 then
    redis.call('DEL', KEYS[2])
    if mark == '+' then
      redis.call('PUBLISH', ARGV[4], ARGV[6])
    end
  end
end

-- Also if the entry was refused: the newer entry may be a reader's fill, which published no message.
if ARGV[9] == '1' then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end

if refused then
  return { now, 1, held }
end
return { now, late and 2 or 0, '' }
