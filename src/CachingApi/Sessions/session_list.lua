-- Lists a user's sessions; what has expired leaves the index.
-- KEYS[1]  the index
-- ARGV[1]  what the keys of the sessions begin with: they lie in the index's slot
-- Returns of each session what session_use.lua does.
local index, sessions = redis.call('HGETALL', KEYS[1]), {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #index, 2 do
  local session = redis.call('HMGET', ARGV[1] .. index[i + 1],
    'id', 'role', 'transport', 'device', 'created', 'seen', 'until', 'authenticated')
  if session[1] then
    session[8] = string.format('%.0f', now - tonumber(session[8] or session[5]))
    session[9] = string.format('%.0f', now)
    sessions[#sessions + 1] = session
  else
    redis.call('HDEL', KEYS[1], index[i])
  end
end

return sessions
