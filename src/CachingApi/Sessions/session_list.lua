-- Lists a user's sessions; what has ended leaves the index.
-- KEYS[1]  the index        KEYS[2]  the time up to which the user's sessions are revoked, in microseconds
-- ARGV[1]  what the keys of the sessions begin with: they lie in the index's slot
-- Returns of each session what session_use.lua does.
local revoked = tonumber(redis.call('GET', KEYS[2]) or 0)
local index, sessions = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #index, 2 do
  local session = redis.call('HMGET', ARGV[1] .. index[i + 1], 'id', 'role', 'transport', 'device', 'created', 'seen', 'until', 'born')
  if session[1] and tonumber(session[8]) > revoked then
    sessions[#sessions + 1] = session
  else
    redis.call('HDEL', KEYS[1], index[i])
  end
end

return sessions
