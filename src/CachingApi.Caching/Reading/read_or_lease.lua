-- Reads an entry; if it is not fresh, asks for the lease: the right to load it, for one process at a time.
-- The lease is '<until> <mark> <tokens>': when it expires, in Unix milliseconds of this server; '-', '+' (a process waits for its end) or
-- '!' (a load has failed: until then none begins while a stale entry can be served); and the tokens of its holder and of earlier holders,
-- whose leases have expired. A write removes the lease. So a token in it proves that no write has come since the token was granted.
-- KEYS[1]  the entry         KEYS[2]  its lease
-- ARGV[1]  the caller's token
-- ARGV[2]  for how long the lease is granted, in milliseconds
-- ARGV[3]  an entry that is fresh beyond this time, in Unix milliseconds, needs no load
-- ARGV[4]  magic, format and hash of the key, as the header of a readable entry has them
-- ARGV[5]  the caller's time in Unix milliseconds
-- ARGV[6]  for how long tokens are remembered, in milliseconds
-- Returns the stored bytes, or '', and 0: the entry is fresh, 1: the caller has the lease, 2: another process has it, 3: a load has
-- just failed, and a stale entry can be served meanwhile.
local FRESH_UNTIL, USABLE_UNTIL, HEADER = 37, 45, 64
local MAX_TOKENS, TOKEN = 4, 33

local entry = redis.pcall('GET', KEYS[1])
if type(entry) ~= 'string' then
  entry = ''
end
local readable = #entry >= HEADER and string.sub(entry, 1, 2) .. string.sub(entry, 5, 12) == ARGV[4]
if readable and struct.unpack('>i8', entry, FRESH_UNTIL) > tonumber(ARGV[3]) then
  return { entry, 0 }
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.pcall('GET', KEYS[2])
local till, mark, tokens = string.match(type(lease) == 'string' and lease or '', '^(%d+) (.) (.*)$')
local held = till and tonumber(till) > now
if held and mark == '!' then
  if readable and struct.unpack('>i8', entry, USABLE_UNTIL) > tonumber(ARGV[5]) then
    return { entry, 3 }
  end
  held = false
end

if not held then
  tokens = string.sub(ARGV[1] .. ' ' .. (tokens or ''), 1, MAX_TOKENS * TOKEN)
  mark = mark == '+' and '+' or '-'
  redis.call('SET', KEYS[2], string.format('%.0f %s %s', now + ARGV[2], mark, tokens), 'PX', ARGV[6])
  return { entry, 1 }
end

if mark == '-' then
  redis.call('SET', KEYS[2], till .. ' + ' .. tokens, 'KEEPTTL')
end
return { entry, 2 }
