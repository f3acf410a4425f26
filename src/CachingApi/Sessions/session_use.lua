-- Reads a session and extends its idle limit. It changes an existing session only, so an ended one cannot come back.
-- key, revoked  the session, and the time up to which the user's sessions are revoked, in microseconds
-- idle          the configured idle limit; a session's own may be shorter
-- note_use      after how long its use is recorded again at most; with a short idle limit, after a twentieth of that (all in milliseconds)
-- Returns false, or id, role, transport, device, created, seen, until, how long ago the password was given, the time, and the idle limit.
local function use(key, revoked, idle, note_use, now)
  -- An error, such as a key with foreign data, must not fail the requests of others.
  local session = redis.pcall('HMGET', key,
    'id', 'role', 'transport', 'device', 'created', 'seen', 'until', 'born', 'authenticated', 'idle')
  if session.err or not session[1] then
    return false
  end

  local seen, ends, born = tonumber(session[6]), tonumber(session[7]), tonumber(session[8])
  if born <= tonumber(redis.call('GET', revoked) or 0) then
    redis.call('UNLINK', key)
    return false
  end

  -- The key's time to live enforces the absolute limit.
  idle = math.min(idle, tonumber(session[10] or idle))
  if now - seen >= math.min(note_use, idle / 20) then
    session[6] = string.format('%.0f', now)
    redis.call('HSET', key, 'seen', session[6])
    redis.call('PEXPIRE', key, math.min(idle, ends - now))
  end

  -- A session of an older build has no such field: then the password was given at login. It has no idle limit of its own, either.
  session[8] = string.format('%.0f', now - tonumber(session[9] or session[5]))
  session[9] = string.format('%.0f', now)
  session[10] = string.format('%.0f', idle)
  return session
end
