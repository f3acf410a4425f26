-- Before a write is given up: keeps the version that its row has now. Then the row gets a later version and the write's token as its fence,
-- so neither of them shows any more whether the row has a later write than another one (see write_behind_reaccept.lua).
-- KEYS[1]  the entity, see write_behind_accept.lua
-- ARGV[1]  the write's token
-- ARGV[2]  the row's version     ARGV[3]  the row's fence
-- ARGV[4]  for how long, in milliseconds, it is kept: longer than a write waits
local key = KEYS[1] .. ':dead'
local token, version = string.match(redis.call('GET', key) or '', '^(%d+) ?(%d*)$')
if token ~= ARGV[1] then
  -- If the row's fence is that of a write that was given up, its version is not that of a write either.
  redis.call('SET', key, ARGV[1] .. ' ' .. (token == ARGV[3] and version or ARGV[2]), 'PX', ARGV[4])
end
