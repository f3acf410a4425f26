-- Takes an entry out, and keeps what it kept out: a tombstone of its version stays, so that a late writer of an older one is
-- refused. The lease is broken: what is being loaded is not kept.
-- KEYS[1]  the entry         KEYS[2]  its lease
-- ARGV[1]  a tombstone of this key, of version 0
-- ARGV[2]  its time to live in milliseconds
-- ARGV[3]  the backplane's channel
-- ARGV[4]  what the other processes are told of it
-- ARGV[5]  what those are told that wait for the lease
local KIND, VERSION, CREATED, HEADER = 3, 13, 21, 48
local TOMBSTONE = 2

local held = redis.pcall('GET', KEYS[1])
local readable = type(held) == 'string' and #held >= HEADER
  and string.sub(held, 1, 2) == string.sub(ARGV[1], 1, 2) and string.sub(held, 5, 12) == string.sub(ARGV[1], 5, 12)

if not readable or struct.unpack('>i8', held, VERSION) == 0 then
  redis.call('DEL', KEYS[1])
elseif string.byte(held, KIND) ~= TOMBSTONE then
  local version = string.sub(held, VERSION, CREATED - 1)
  redis.call('SET', KEYS[1], string.sub(ARGV[1], 1, VERSION - 1) .. version .. string.sub(ARGV[1], CREATED), 'PX', ARGV[2])
end

local lease = redis.call('GET', KEYS[2])
if lease then
  redis.call('DEL', KEYS[2])
  if string.sub(lease, -1) == '+' then
    redis.call('PUBLISH', ARGV[3], ARGV[5])
  end
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
