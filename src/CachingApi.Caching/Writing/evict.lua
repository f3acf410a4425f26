-- Removes an entry. A tombstone of its revision stays, so that a late write of an older revision is still refused. The lease is removed,
-- so that a load under way is not kept.
-- KEYS[1]  the entry         KEYS[2]  its lease
-- ARGV[1]  a tombstone of this key, of version 0
-- ARGV[2]  its time to live in milliseconds
-- ARGV[3]  the backplane's channel
-- ARGV[4]  the message to the other processes
-- ARGV[5]  the message to those that wait for the lease
local KIND, VERSION, CREATED = 3, 13, 29
local TOMBSTONE = 2

local held = redis.pcall('GET', KEYS[1])
local ordered = type(held) == 'string' and #held >= CREATED - 1
  and string.byte(held) == string.byte(ARGV[1]) and string.sub(held, 5, 12) == string.sub(ARGV[1], 5, 12)

if not ordered or struct.unpack('>i8', held, VERSION) == 0 then
  redis.call('DEL', KEYS[1])
elseif string.byte(held, KIND) ~= TOMBSTONE then
  local revision = string.sub(held, VERSION, CREATED - 1)
  redis.call('SET', KEYS[1], string.sub(ARGV[1], 1, VERSION - 1) .. revision .. string.sub(ARGV[1], CREATED), 'PX', ARGV[2])
end

local lease = redis.pcall('GET', KEYS[2])
if lease then
  redis.call('DEL', KEYS[2])
  if type(lease) == 'string' and string.find(lease, '^%d+ %+') then
    redis.call('PUBLISH', ARGV[3], ARGV[5])
  end
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
