-- Decides about a queued write whose row has a fence that the write may not overwrite. If the row has a later write, the queued one is
-- superseded. Otherwise the fence is foreign, and the write is accepted anew under a later token.
-- KEYS[1]  the queue       KEYS[2]  the last token       KEYS[3]  the entity, see write_behind_accept.lua
-- ARGV[1]  the consumer group
-- ARGV[2]  the write's token     ARGV[3]  the write's version
-- ARGV[4]  the row's fence       ARGV[5]  the row's version
-- ARGV[6]  for how long, in milliseconds, the state of an entity is kept     ARGV[7]  for how long that of writes that were given up is
-- Returns 0: the row has a later write; 1: it is not known which is later, or a consumer has begun to give the write up; 2: accepted
-- anew; 3: the queue no longer holds it; 4: the row has this write.
local id, fence = ARGV[2] .. '-0', tonumber(ARGV[4])
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
if not entry then
  return 3
end

local time = redis.call('TIME')
local now, last = time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[2]) or 0)
local held = redis.call('HMGET', KEYS[3], 'token', 'issued')
-- The fence of a write that was given up does not mean a later write: the version counts that the row had before. A write that was accepted
-- anew after that gives the row a version later than its own: its own counts, so that it does not supersede a later one that still waits.
local given_up = KEYS[3] .. ':given-up'
local before, anew = redis.call('HGET', given_up, ARGV[4]), redis.call('HGET', given_up, 'anew ' .. ARGV[4])
if ARGV[4] == ARGV[2] then
  return before and 1 or 4
end
if tonumber(before or anew or ARGV[5]) > tonumber(ARGV[3]) then
  return fence <= tonumber(held[2] or math.max(now, last)) and 0 or 1
end

local fields = { 'over', ARGV[4] }
for i = 1, #entry[2], 2 do
  if entry[2][i] ~= 'over' then
    fields[#fields + 1] = entry[2][i]
    fields[#fields + 1] = entry[2][i + 1]
  end
end

local token = string.format('%.0f', math.max(now, last + 1, fence + 1))
if before or anew then
  redis.call('HSET', given_up, 'anew ' .. token, ARGV[3])
  redis.call('PEXPIRE', given_up, ARGV[7])
end
redis.call('SET', KEYS[2], token)
redis.call('XADD', KEYS[1], token .. '-0', unpack(fields))
redis.call('HSET', KEYS[3], 'issued', token)
if held[1] == ARGV[2] then
  redis.call('HSET', KEYS[3], 'token', token, 'over', ARGV[4])
elseif not held[1] then
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
redis.call('XACK', KEYS[1], ARGV[1], id)
redis.call('XDEL', KEYS[1], id)
return 2
