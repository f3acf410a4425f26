-- Lists a user's sessions; what has expired leaves the index.
-- KEYS[1]  the index
-- ARGV[1]  what the keys of the sessions begin with: they lie in the index's slot
-- Returns of each session what session_use.lua does.
local index, sessions = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #index, 2 do
  local session = redis.call('HMGET', ARGV[1] .. index[i + 1], 'id', 'role', 'transport', 'device', 'created', 'seen', 'until')
  if session[1] then
    sessions[#sessions + 1] = session
  else
    redis.call('HDEL', KEYS[1], index[i])
  end
end

return sessions
