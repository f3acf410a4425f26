using System.Globalization;
using CachingApi.Storage;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Sessions;

/// <summary>
/// Sessions in Redis (the state server), one script per operation. The clock is Redis's own, so that all processes agree on
/// what has expired.
/// </summary>
internal sealed class SessionStore(Redis redis, IOptions<SessionPolicy> policy)
{
    private static readonly string CreateScript = Lua.Load("session_create.lua");
    private static readonly string UseScript = Lua.Load("session_use.lua");
    private static readonly string ListScript = Lua.Load("session_list.lua");
    private static readonly string EndScript = Lua.Load("session_end.lua");
    private static readonly string AuthenticatedScript = Lua.Load("session_authenticated.lua");
    private static readonly string RevokeScript = Lua.Load("session_revoke.lua");

    /// <summary>How many sessions a user has at most: one more ends the one that has not been used for longest.</summary>
    public const int MaxSessions = 100;

    private readonly long _idle = (long)policy.Value.Idle.TotalMilliseconds;
    private readonly long _absolute = (long)policy.Value.Absolute.TotalMilliseconds;

    /// <summary>Begins a session and returns when it ends if it is not used.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<DateTime> CreateAsync(
        SessionToken token, Guid id, string role, SessionTransport transport, string device, CancellationToken cancel)
    {
        RedisValue[] arguments = [id.ToString(), role, transport.ToString(), device, _idle, _absolute, MaxSessions];
        var expires = await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(CreateScript, [Key(token), RevokedKey(token.UserId), IndexKey(token.UserId)], arguments), cancel);
        return FromUnixMilliseconds((long)expires);
    }

    /// <summary>The session of a token, which counts as used now; <c>null</c> where there is none, or none any more.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<Session?> UseAsync(SessionToken token, CancellationToken cancel)
    {
        var result = await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(UseScript, [Key(token), RevokedKey(token.UserId)], [_idle]), cancel);
        return result.IsNull ? null : Read(token.UserId, result);
    }

    /// <summary>Notes that the password was given now, if the session still exists.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task AuthenticatedAsync(SessionToken token, CancellationToken cancel) =>
        redis.OnStateAsync(state => state.ScriptEvaluateAsync(AuthenticatedScript, [Key(token)]), cancel);

    /// <summary>A user's sessions.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<Session[]> ListAsync(Guid userId, CancellationToken cancel)
    {
        var sessions = await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(ListScript, [IndexKey(userId)], [Prefix(userId)]), cancel);
        return [.. ((RedisResult[])sessions!).Select(session => Read(userId, session))];
    }

    /// <summary>Ends the session of a token.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task EndAsync(SessionToken token, CancellationToken cancel) => EndAsync(token.UserId, "", token.Hash, cancel);

    /// <summary>Ends one of a user's sessions; <c>false</c> where there is no such one.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task<bool> EndAsync(Guid userId, Guid id, CancellationToken cancel) => EndAsync(userId, id.ToString(), "", cancel);

    /// <summary>Ends all of a user's sessions, however many, by one value that they are compared with.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task EndAllAsync(Guid userId, CancellationToken cancel) =>
        redis.OnStateAsync(state => state.ScriptEvaluateAsync(RevokeScript, [RevokedKey(userId), IndexKey(userId)], [_absolute]), cancel);

    /// <summary>As <see cref="EndAllAsync"/>, but one goes on, under another token or its own; <c>false</c> where it has ended.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<bool> EndOthersAsync(SessionToken current, SessionToken next, CancellationToken cancel) => (bool)await redis.OnStateAsync(
        state => state.ScriptEvaluateAsync(
            RevokeScript, [RevokedKey(current.UserId), IndexKey(current.UserId), Key(current), Key(next)], [_absolute]), cancel);

    private async Task<bool> EndAsync(Guid userId, string id, string hash, CancellationToken cancel) => (bool)await redis.OnStateAsync(
        state => state.ScriptEvaluateAsync(EndScript, [IndexKey(userId)], [Prefix(userId), id, hash]), cancel);

    private Session Read(Guid userId, RedisResult session)
    {
        var fields = (string[])session!;
        return new()
        {
            Id = Guid.Parse(fields[0]),
            UserId = userId,
            Role = fields[1],
            Transport = Enum.Parse<SessionTransport>(fields[2]),
            Device = fields[3],
            CreatedAt = FromUnixMilliseconds(Number(fields[4])),
            LastSeenAt = FromUnixMilliseconds(Number(fields[5])),
            ExpiresAt = FromUnixMilliseconds(Math.Min(Number(fields[5]) + _idle, Number(fields[6]))),
            SinceAuthentication = TimeSpan.FromMilliseconds(Number(fields[7])),
        };
    }

    /// <summary>The braces put all of a user's keys into one slot of a Redis Cluster.</summary>
    private string Prefix(Guid userId) => $"{redis.KeyPrefix}:sessions:{{{userId}}}:";

    private RedisKey Key(SessionToken token) => Prefix(token.UserId) + token.Hash;

    private RedisKey RevokedKey(Guid userId) => Prefix(userId) + "revoked";

    private RedisKey IndexKey(Guid userId) => Prefix(userId) + "index";

    private static long Number(string text) => long.Parse(text, CultureInfo.InvariantCulture);

    private static DateTime FromUnixMilliseconds(long milliseconds) => DateTimeOffset.FromUnixTimeMilliseconds(milliseconds).UtcDateTime;
}
