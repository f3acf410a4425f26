-- Sets an entry, unless a newer revision is held: nothing puts an older value over a newer one.
-- A fill that has no version needs the lease that it was loaded under; a write breaks the lease, so that a load under way is not kept.
-- KEYS[1]  the entry         KEYS[2]  its lease
-- ARGV[1]  the new entry: header and body, see CacheEntry.cs
-- ARGV[2]  its time to live in milliseconds
-- ARGV[3]  for a fill the lease's token, for a write ''
-- ARGV[4]  the backplane's channel
-- ARGV[5]  the message to the other processes about a write
-- ARGV[6]  the message to those that wait for the lease
-- ARGV[7]  the time, by this server's clock, before which the entry's revision was not known to anybody ('': now)
-- ARGV[8]  for how long, in milliseconds, tombstones are kept
-- Returns the time in milliseconds, and: 0 and '': set; 1 and the entry that is held: it is as good or newer; 2 and '': the lease is lost.
local KIND, VERSION, FENCE, CREATED, BODY = 3, 13, 21, 29, 65
local VALUE, TOMBSTONE = 0, 2

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local new, ttl, fill = ARGV[1], ARGV[2], ARGV[3] ~= ''
local version, fence = struct.unpack('>i8', new, VERSION), struct.unpack('>i8', new, FENCE)

-- It was so long on the way that the tombstone of a newer revision may have expired meanwhile.
local late = ARGV[7] ~= '' and now - tonumber(ARGV[7]) >= tonumber(ARGV[8])

local held = redis.pcall('GET', KEYS[1])
local ordered = type(held) == 'string' and #held >= CREATED - 1
  and string.byte(held) == string.byte(new) and string.sub(held, 5, 12) == string.sub(new, 5, 12)
local lead = 0
if ordered then
  lead = struct.unpack('>i8', held, VERSION) - version
  if lead == 0 then
    lead = struct.unpack('>i8', held, FENCE) - fence
  end
end

-- Without the lease a fill needs what the lease protects it from: an order, and that no tombstone has expired since its load began.
-- An eviction may have come after the load began: it leaves a tombstone of the revision that was held, and '!' in place of the lease.
local lease = redis.call('GET', KEYS[2])
local holds = lease and (lease == ARGV[3] or lease == ARGV[3] .. '+')
local evicted = lease == '!' or ordered and lead == 0 and string.byte(held, KIND) == TOMBSTONE
if fill and not holds and (version == 0 or string.byte(new, KIND) ~= VALUE or late or evicted) then
  return { now, 2, '' }
end
if not fill and late and string.byte(new, KIND) ~= TOMBSTONE then
  new = string.sub(new, 1, KIND - 1) .. string.char(TOMBSTONE) .. string.sub(new, KIND + 1, CREATED + 7)
    .. string.rep('\0', BODY - CREATED - 8)
  ttl = ARGV[8]
end

-- A tombstone refuses older revisions; an entry of its own revision may stay.
local tombstone = string.byte(new, KIND) == TOMBSTONE and version > 0
local refused = ordered and (lead > 0 or lead == 0 and tombstone)

if not refused then
  redis.call('SET', KEYS[1], new, 'PX', ttl)
  if lease and (holds or not fill) then
    redis.call('DEL', KEYS[2])
    if string.sub(lease, -1) == '+' then
      redis.call('PUBLISH', ARGV[4], ARGV[6])
    end
  end
end

-- Also if it was refused: the newer entry may be a reader's fill, of which there was no message.
if not fill then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end

if refused then
  return { now, 1, held }
end
return { now, 0, '' }
