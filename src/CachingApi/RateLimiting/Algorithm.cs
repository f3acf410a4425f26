using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;
using System.Text;
using CachingApi.Storage;

namespace CachingApi.RateLimiting;

/// <summary>What an algorithm says to a request for permits.</summary>
/// <param name="Wait">Milliseconds until there are as many as were asked for; 0 where there are, and they are spent.</param>
/// <param name="Available">How many there were before.</param>
/// <param name="Reset">Milliseconds until there are more than are left now.</param>
internal readonly record struct Permits(long Wait, long Available, long Reset)
{
    public bool Granted => Wait == 0;
}

/// <summary>
/// The state of one key in this process. Each algorithm is two files: this class is what is used while Redis is away, and the
/// Lua of its name does the same on a state in Redis.
/// </summary>
/// <remarks>
/// All are integers, so that both agree to the last permit: times are whole milliseconds, and no product reaches 2^53, up to
/// which Lua's numbers are exact.
/// </remarks>
internal abstract class Algorithm
{
    public const string FixedWindow = "fixed-window";
    public const string SlidingWindow = "sliding-window";
    public const string SlidingWindowCounter = "sliding-window-counter";
    public const string TokenBucket = "token-bucket";

    /// <summary>The text of the script that decides in Redis: the functions of the algorithms, then what calls them.</summary>
    public static string Script { get; } = string.Concat(
        "local algorithms = {}\n",
        Lua.Load("fixed_window.lua"),
        Lua.Load("sliding_window.lua"),
        Lua.Load("sliding_window_counter.lua"),
        Lua.Load("token_bucket.lua"),
        Lua.Load("rate_limit.lua"));

    /// <summary>The name that Redis has for it; given the text, the library would hash that on each call.</summary>
    [SuppressMessage("Security", "CA5350", Justification = "Redis names scripts by their SHA-1.")]
    public static byte[] ScriptHash { get; } = SHA1.HashData(Encoding.UTF8.GetBytes(Script));

    public static Algorithm New(string name) => name switch
    {
        FixedWindow => new FixedWindow(),
        SlidingWindow => new SlidingWindow(),
        SlidingWindowCounter => new SlidingWindowCounter(),
        TokenBucket => new TokenBucket(),
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "There is no such algorithm."),
    };

    /// <summary>Spends permits, where there are enough.</summary>
    /// <param name="now">Unix time in milliseconds.</param>
    /// <param name="window">In milliseconds.</param>
    /// <param name="cost">Below zero, it gives permits back.</param>
    public abstract Permits Spend(long now, long limit, long window, int cost);

    protected static long CeilingOf(long dividend, long divisor) => dividend <= 0 ? 0 : (dividend - 1) / divisor + 1;
}
