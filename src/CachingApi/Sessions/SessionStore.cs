using System.Globalization;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using CachingApi.RequestState;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Sessions;

/// <summary>
/// Sessions in Redis (the state server), one script per operation. The clock is that of Redis, so that all processes agree on expiry.
/// Sessions in use are also kept in <see cref="SessionMemory"/>.
/// </summary>
internal sealed class SessionStore(
    RedisConnections redis,
    StateCalls calls,
    SessionMemory memory,
    SessionBackplane backplane,
    IOptions<SessionPolicy> policy,
    TimeProvider time)
{
    private static readonly string CreateScript = Lua.Load(typeof(SessionStore), "session_create.lua");
    private static readonly string ListScript = Lua.Load(typeof(SessionStore), "session_list.lua");
    private static readonly string EndScript = Lua.Load(typeof(SessionStore), "session_end.lua");
    private static readonly string AuthenticatedScript = Lua.Load(typeof(SessionStore), "session_authenticated.lua");
    private static readonly string RevokeScript = Lua.Load(typeof(SessionStore), "session_revoke.lua");

    /// <summary>The maximum number of sessions of a user: a further one ends the one that was not used for the longest time.</summary>
    public const int MaxSessions = 100;

    /// <summary>
    /// Redis records the use of a session after this many milliseconds at most, and after a twentieth of its idle limit. Memory does not
    /// serve a session beyond the next time.
    /// </summary>
    private const long MaxNoteUse = 60_000;

    private static readonly TimeSpan ShortIdle = TimeSpan.FromMinutes(10);

    private readonly long _idle = (long)policy.Value.Idle.TotalMilliseconds;
    private readonly long _absolute = (long)policy.Value.Absolute.TotalMilliseconds;

    /// <summary>Begins a session.</summary>
    /// <param name="isShort">Whether its idle limit is ten minutes, if the configured one is not shorter.</param>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<(SessionToken Token, NewSession Session)> CreateAsync(
        Guid userId, string role, SessionTransport transport, string device, bool isShort, CancellationToken cancel)
    {
        var idle = isShort ? Math.Min(_idle, (long)ShortIdle.TotalMilliseconds) : _idle;
        var (token, id) = (SessionToken.New(userId), Guid.CreateVersion7(time.GetUtcNow()));
        RedisValue[] arguments =
        [
            id.ToString(), role, transport.ToString(), device, idle, _absolute, MaxSessions,
            backplane.Channel, SessionBackplane.Message(userId),
        ];
        RedisKey[] keys = [Key(token), RevokedKey(userId), IndexKey(userId)];
        var created = (long[])(await redis.OnStateAsync(state => state.ScriptEvaluateAsync(CreateScript, keys, arguments), cancel))!;
        if (created[1] == 1)
        {
            memory.Ended(userId);
            await backplane.CountAsync(userId);
        }

        var shown = transport is SessionTransport.Bearer ? token.Text : null;
        return (token, new() { Id = id, UserId = userId, ExpiresAt = FromUnixMilliseconds(created[0]), Token = shown });
    }

    /// <summary>The session of a token; <c>null</c> if it does not exist or has ended, or if it was issued for another transport.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async ValueTask<Session?> UseAsync(SessionToken token, SessionTransport transport, CancellationToken cancel) =>
        Find(token, transport) ?? await UseInRedisAsync(token, transport, null, cancel);

    /// <summary>As <see cref="UseAsync"/>, but from memory; <c>null</c> if Redis must be asked.</summary>
    public Session? Find(SessionToken token, SessionTransport transport) => OfTransport(memory.Find(token), transport);

    /// <summary>As <see cref="UseAsync"/>, but from Redis, which records the use.</summary>
    /// <param name="ahead">Permits to request with it; they are answered if the session exists.</param>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<Session?> UseInRedisAsync(
        SessionToken token, SessionTransport transport, PermitsAhead? ahead, CancellationToken cancel)
    {
        var (ticket, asked) = (memory.Ticket(token.UserId), Moment.Now);
        var use = new SessionUse(Key(token), RevokedKey(token.UserId), transport, _idle, MaxNoteUse);
        var reply = await calls.SendAsync(new(use, ahead?.Requests ?? []), cancel);
        if (reply.Session is not { } fields)
        {
            return null;
        }

        ahead?.Answers = reply.Permits;

        var session = Read(token.UserId, fields, asked);
        var (seen, ends, now) = (Number(fields[5]), Number(fields[6]), Number(fields[8]));
        var noteUse = Math.Min(MaxNoteUse, Idle(fields) / 20);
        memory.Keep(token, session, ticket, asked, TimeSpan.FromMilliseconds(Math.Min(seen + noteUse, ends) - now));
        return OfTransport(session, transport);
    }

    /// <summary>Records that the password was given now, if the session still exists.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task AuthenticatedAsync(SessionToken token, CancellationToken cancel)
    {
        RedisValue[] arguments = [backplane.Channel, SessionBackplane.Message(token.UserId)];
        await redis.OnStateAsync(state => state.ScriptEvaluateAsync(AuthenticatedScript, [Key(token)], arguments), cancel);
        memory.Ended(token.UserId);
    }

    /// <summary>A user's sessions.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<Session[]> ListAsync(Guid userId, CancellationToken cancel)
    {
        var asked = Moment.Now;
        var sessions = await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(ListScript, [IndexKey(userId)], [Prefix(userId), _idle]), cancel);
        return [.. ((RedisResult[])sessions!).Select(session => Read(userId, (string[])session!, asked))];
    }

    /// <summary>Ends the session of a token.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task EndAsync(SessionToken token, CancellationToken cancel) => EndAsync(token.UserId, "", token.Hash, cancel);

    /// <summary>Ends one of a user's sessions; <c>false</c> if it does not exist.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task<bool> EndAsync(Guid userId, Guid id, CancellationToken cancel) => EndAsync(userId, id.ToString(), "", cancel);

    /// <summary>Ends all of a user's sessions at once, by one value that each use compares with the session.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task EndAllAsync(Guid userId, CancellationToken cancel) =>
        EndAsync(userId, RevokeScript, [RevokedKey(userId), IndexKey(userId)], [_absolute, true], cancel);

    /// <summary>
    /// As <see cref="EndAllAsync"/>, except for one, which continues under another token or its own; <c>false</c> if it has ended.
    /// </summary>
    /// <param name="always">Whether the others end even if that one has ended.</param>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task<bool> EndOthersAsync(SessionToken current, SessionToken next, bool always, CancellationToken cancel) => EndAsync(
        current.UserId,
        RevokeScript,
        [RevokedKey(current.UserId), IndexKey(current.UserId), Key(current), Key(next)],
        [_absolute, always],
        cancel);

    private Task<bool> EndAsync(Guid userId, string id, string hash, CancellationToken cancel) =>
        EndAsync(userId, EndScript, [IndexKey(userId)], [Prefix(userId), id, hash], cancel);

    /// <summary>Runs a script that ends sessions of a user, and ensures that no process serves them from memory.</summary>
    /// <remarks>
    /// The end is counted even if the script found no session to end: an earlier request may have ended the session and failed before it
    /// counted the end.
    /// </remarks>
    private async Task<bool> EndAsync(Guid userId, string script, RedisKey[] keys, RedisValue[] arguments, CancellationToken cancel)
    {
        arguments = [.. arguments, backplane.Channel, SessionBackplane.Message(userId)];
        try
        {
            var ended = await redis.OnStateAsync(state => state.ScriptEvaluateAsync(script, keys, arguments), cancel);
            await backplane.CountAsync(userId);
            return (bool)ended;
        }
        finally
        {
            memory.Ended(userId);
        }
    }

    /// <remarks>So a token that leaked from a cookie is useless as a bearer token.</remarks>
    private static Session? OfTransport(Session? session, SessionTransport transport) => session?.Transport == transport ? session : null;

    private Session Read(Guid userId, string[] fields, Moment asked) =>
        new()
        {
            Id = Guid.Parse(fields[0]),
            UserId = userId,
            Role = fields[1],
            Transport = Enum.Parse<SessionTransport>(fields[2]),
            Device = fields[3],
            CreatedAt = FromUnixMilliseconds(Number(fields[4])),
            LastSeenAt = FromUnixMilliseconds(Number(fields[5])),
            ExpiresAt = FromUnixMilliseconds(Math.Min(Number(fields[5]) + Idle(fields), Number(fields[6]))),
            AuthenticatedAt = asked.Plus(-TimeSpan.FromMilliseconds(Number(fields[7]))),
        };

    /// <summary>The session's idle limit, in milliseconds.</summary>
    private long Idle(string[] fields) => Math.Min(_idle, Number(fields[9]));

    /// <summary>The braces put all of a user's keys into one slot of a Redis Cluster.</summary>
    private string Prefix(Guid userId) => $"{redis.KeyPrefix}:sessions:{{{userId}}}:";

    private RedisKey Key(SessionToken token) => Prefix(token.UserId) + token.Hash;

    private RedisKey RevokedKey(Guid userId) => Prefix(userId) + "revoked";

    private RedisKey IndexKey(Guid userId) => Prefix(userId) + "index";

    private static long Number(string text) => long.Parse(text, CultureInfo.InvariantCulture);

    private static DateTime FromUnixMilliseconds(long milliseconds) => DateTimeOffset.FromUnixTimeMilliseconds(milliseconds).UtcDateTime;
}
