-- Lists a user's sessions, and removes expired ones from the index.
-- KEYS[1]  the index
-- ARGV     the prefix of the sessions' keys, which are in the index's slot, and the configured idle limit in milliseconds
-- Returns for each session the same fields as session_use.lua.
local index, sessions = redis.call('HGETALL', KEYS[1]), {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #index, 2 do
  local session = redis.call('HMGET', ARGV[1] .. index[i + 1],
    'id', 'role', 'transport', 'device', 'created', 'seen', 'until', 'authenticated', 'idle')
  if session[1] then
    session[8] = string.format('%.0f', now - tonumber(session[8] or session[5]))
    session[10] = session[9] or ARGV[2]
    session[9] = string.format('%.0f', now)
    sessions[#sessions + 1] = session
  else
    redis.call('HDEL', KEYS[1], index[i])
  end
end

return sessions
