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
    private static readonly string RevokeScript = Lua.Load("session_revoke.lua");

    private readonly long _idle = (long)policy.Value.Idle.TotalMilliseconds;
    private readonly long _absolute = (long)policy.Value.Absolute.TotalMilliseconds;

    /// <summary>Begins a session and returns when it ends if it is not used.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<DateTime> CreateAsync(
        SessionToken token, Guid id, string role, SessionTransport transport, string device, CancellationToken cancel)
    {
        RedisValue[] arguments = [id.ToString(), role, transport.ToString(), device, _idle, _absolute];
        var expires = await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(CreateScript, [Key(token), RevokedKey(token.UserId)], arguments), cancel);
        return FromUnixMilliseconds((long)expires);
    }

    /// <summary>The session of a token, which counts as used now; <c>null</c> where there is none, or none any more.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<Session?> UseAsync(SessionToken token, CancellationToken cancel)
    {
        var result = await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(UseScript, [Key(token), RevokedKey(token.UserId)], [_idle]), cancel);
        if (result.IsNull)
        {
            return null;
        }

        var fields = (string[])result!;
        return new()
        {
            Id = Guid.Parse(fields[0]),
            UserId = token.UserId,
            Role = fields[1],
            Transport = Enum.Parse<SessionTransport>(fields[2]),
            Device = fields[3],
            CreatedAt = FromUnixMilliseconds(Number(fields[4]) / 1000),
            LastSeenAt = FromUnixMilliseconds(Number(fields[5])),
            ExpiresAt = FromUnixMilliseconds(Math.Min(Number(fields[5]) + _idle, Number(fields[6]))),
        };
    }

    /// <summary>Ends one session.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task EndAsync(SessionToken token, CancellationToken cancel) =>
        redis.OnStateAsync(state => state.KeyDeleteAsync(Key(token)), cancel);

    /// <summary>Ends all of a user's sessions, however many, by one value that they are compared with.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task EndAllAsync(Guid userId, CancellationToken cancel) =>
        redis.OnStateAsync(state => state.ScriptEvaluateAsync(RevokeScript, [RevokedKey(userId)], [_absolute]), cancel);

    private RedisKey Key(SessionToken token) => $"{redis.KeyPrefix}:sessions:{{{token.UserId}}}:{token.Hash}";

    private RedisKey RevokedKey(Guid userId) => $"{redis.KeyPrefix}:sessions:{{{userId}}}:revoked";

    private static long Number(string text) => long.Parse(text, CultureInfo.InvariantCulture);

    private static DateTime FromUnixMilliseconds(long milliseconds) => DateTimeOffset.FromUnixTimeMilliseconds(milliseconds).UtcDateTime;
}
