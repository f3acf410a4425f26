using System.Security.Cryptography;
using System.Text;
using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Sessions;

/// <summary>The client that attempts to log in.</summary>
/// <param name="Network">The network that its address counts for.</param>
/// <param name="Device">The token of its device cookie; <c>null</c> if it has none.</param>
/// <param name="UserAgent">The client's <c>User-Agent</c>.</param>
/// <param name="Neighbours">The larger network (/24, /48) with which it shares the processors that hash.</param>
internal sealed record LoginClient(string Network, string? Device, string UserAgent, string Neighbours);

/// <summary>An attempt that takes a password.</summary>
/// <param name="Wait">How long the client must wait; zero if the attempt may go on and was counted.</param>
/// <param name="IsKnown">
/// Whether it comes from a network or device that has logged in to the account before, or from a live session.
/// </param>
/// <param name="Counts">The keys that count it, the client's own first.</param>
/// <param name="Id">Identifies the attempt that has set the wait of the next one.</param>
internal sealed record LoginAttempt(TimeSpan Wait, bool IsKnown, RedisKey[] Counts, RedisValue Id);

/// <summary>
/// Exponential back-off: after some wrong passwords, each further attempt must wait twice as long as the one before. Failures count by
/// account and network together, so that an attacker's failures never keep the owner out. A higher limit by account alone bounds the
/// attempts of many networks together.
/// </summary>
/// <remarks>
/// A network or device that has logged in to the account before is not subject to the count by account alone (OWASP, "Slow Down Online
/// Guessing Attacks with Device Cookies"), because attackers can fill that count. A device has its own count, so that others in its
/// network do not keep it out. The device cookie holds a random token, and Redis holds its hash: unlike a signed cookie, it needs no key
/// that all processes share.
/// An attempt counts for the account, whose e-mail address may change. If there is no account, it counts for the address in the request,
/// so the answer does not reveal whether the account exists.
/// An attempt by a live session, such as a change of the password, counts for that session alone.
/// </remarks>
internal sealed class LoginBackoff(RedisConnections redis)
{
    public const int FreeFailures = 10;

    /// <summary>The free failures of all unknown networks and devices together.</summary>
    public const int FreeFailuresOfAccount = 100;

    private const int MaxKnown = 40;

    private static readonly TimeSpan FirstWait = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan LongestWait = TimeSpan.FromMinutes(5);
    private static readonly TimeSpan Remembered = TimeSpan.FromHours(1);
    private static readonly TimeSpan KnownFor = TimeSpan.FromDays(90);

    private static readonly string AttemptScript = Lua.Load(typeof(LoginBackoff), "login_attempt.lua");
    private static readonly string SuccessScript = Lua.Load(typeof(LoginBackoff), "login_success.lua");
    private static readonly string WithdrawScript = Lua.Load(typeof(LoginBackoff), "login_withdraw.lua");

    /// <summary>Counts an attempt to log in.</summary>
    /// <param name="userId">The account of the address; <c>null</c> if there is none.</param>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<LoginAttempt> AttemptAsync(string email, Guid? userId, LoginClient client, CancellationToken cancel)
    {
        var prefix = userId is { } id ? Prefix($"{id}") : Prefix(Hash(Email.Key(email)));
        var (network, device) = (Hash(client.Network), client.Device is { } token ? Hash(token) : "none");
        var known = await redis.OnStateAsync(state => state.SortedSetScoresAsync(prefix + "known", [network, device]), cancel);
        return known[1] is not null ? await CountAsync([prefix + device], isKnown: true, cancel)
            : known[0] is not null ? await CountAsync([prefix + network], isKnown: true, cancel)
            : await CountAsync([prefix + network, prefix + "all"], isKnown: false, cancel);
    }

    /// <summary>Counts an attempt by a live session.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task<LoginAttempt> AttemptAsync(Session session, CancellationToken cancel) =>
        CountAsync([Prefix($"{session.UserId}") + session.Id], isKnown: true, cancel);

    /// <summary>
    /// After a right password: removes the client's failures, and records its network and device as known to the account.
    /// </summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task SucceededAsync(LoginAttempt attempt, Guid userId, LoginClient client, CancellationToken cancel)
    {
        RedisKey[] keys = [KnownOf(userId), .. attempt.Counts];
        RedisValue[] devices = client.Device is { } device ? [Hash(device)] : [];
        RedisValue[] arguments = [MaxKnown, Milliseconds(KnownFor), Hash(client.Network), .. devices];
        return redis.OnStateAsync(state => state.ScriptEvaluateAsync(SuccessScript, keys, arguments), cancel);
    }

    /// <summary>Removes the known networks and devices of the account, because one of them may belong to a thief.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task ForgetKnownAsync(Guid userId, CancellationToken cancel) =>
        redis.OnStateAsync(state => state.KeyDeleteAsync(KnownOf(userId)), cancel);

    /// <summary>After a right password: removes the failures of a live session.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task SucceededAsync(LoginAttempt attempt, CancellationToken cancel) =>
        redis.OnStateAsync(state => state.KeyDeleteAsync(attempt.Counts), cancel);

    /// <summary>Takes an attempt back, because no password was checked.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task WithdrawAsync(LoginAttempt attempt, CancellationToken cancel) =>
        redis.OnStateAsync(state => state.ScriptEvaluateAsync(WithdrawScript, attempt.Counts, [attempt.Id]), cancel);

    private async Task<LoginAttempt> CountAsync(RedisKey[] counts, bool isKnown, CancellationToken cancel)
    {
        RedisValue id = $"{Guid.NewGuid():N}";
        RedisValue[] arguments =
            [Milliseconds(FirstWait), Milliseconds(LongestWait), Milliseconds(Remembered), FreeFailures, FreeFailuresOfAccount, id];
        var wait = await redis.OnStateAsync(state => state.ScriptEvaluateAsync(AttemptScript, counts, arguments), cancel);
        return new(TimeSpan.FromMilliseconds((long)wait), isKnown, counts, id);
    }

    private RedisKey KnownOf(Guid userId) => Prefix($"{userId}") + "known";

    /// <summary>The braces put all of an account's keys into one slot of a Redis Cluster.</summary>
    private string Prefix(string account) => $"{redis.KeyPrefix}:logins:{{{account}}}:";

    private static string Hash(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)).AsSpan(0, 16));

    private static long Milliseconds(TimeSpan time) => (long)time.TotalMilliseconds;
}
