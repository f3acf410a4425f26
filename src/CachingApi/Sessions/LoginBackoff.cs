using System.Security.Cryptography;
using System.Text;
using CachingApi.Storage;

namespace CachingApi.Sessions;

/// <summary>
/// Exponential back-off for each account: after a few wrong passwords each further attempt must wait, twice as long every time,
/// until one is right. Sessions that exist are not concerned, so nobody is logged out by it.
/// </summary>
/// <remarks>It goes by the address that was given, whether there is such an account or not, and so tells nothing.</remarks>
internal sealed class LoginBackoff(Redis redis)
{
    public const int FreeFailures = 10;

    private static readonly TimeSpan FirstWait = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan LongestWait = TimeSpan.FromMinutes(5);
    private static readonly TimeSpan Remembered = TimeSpan.FromHours(1);

    private static readonly string Script = Lua.Load("login_attempt.lua");

    /// <summary>Counts an attempt; returns how long it must wait, zero where it may go on.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public async Task<TimeSpan> AttemptAsync(string email, CancellationToken cancel)
    {
        var wait = await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(Script, [Key(email)], [FreeFailures, Milliseconds(FirstWait), Milliseconds(LongestWait), Milliseconds(Remembered)]),
            cancel);
        return TimeSpan.FromMilliseconds((long)wait);
    }

    /// <summary>The attempt turned out well.</summary>
    /// <exception cref="UnavailableException">Redis is away.</exception>
    public Task ForgetAsync(string email, CancellationToken cancel) => redis.OnStateAsync(state => state.KeyDeleteAsync(Key(email)), cancel);

    private string Key(string email) =>
        $"{redis.KeyPrefix}:logins:{Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(Email.Key(email))).AsSpan(0, 16))}";

    private static long Milliseconds(TimeSpan time) => (long)time.TotalMilliseconds;
}
