using CachingApi.Redis;
using CachingApi.RequestState;

namespace CachingApi.RateLimiting;

/// <summary>An algorithm's answer to a request for permits.</summary>
/// <param name="Wait">Milliseconds until there are enough permits; 0 if there are, and the request has acquired them.</param>
/// <param name="Available">The number of permits before the request, without those that were leased together with it.</param>
/// <param name="Reset">Milliseconds until there are more permits than are left now.</param>
internal readonly record struct Permits(long Wait, long Available, long Reset)
{
    public bool Granted => Wait == 0;

    /// <summary>Time and server of the grant, which a refund must name.</summary>
    public Grant Grant { get; init; }
}

/// <summary>When and by which server permits were granted.</summary>
/// <param name="Time">By that server's clock, in Unix milliseconds.</param>
/// <param name="Server">
/// The start of its run id; 0 if it is unknown. A server that was restarted or promoted has another run id, and its state
/// may not contain the grant.
/// </param>
internal readonly record struct Grant(long Time, long Server);

/// <summary>
/// The state of one key in this process. Each algorithm is two files: this class decides while Redis is unavailable, and the Lua file of
/// the same name does the same on a state in Redis.
/// </summary>
/// <remarks>
/// All numbers are integers, so that both agree to the last permit: times are whole milliseconds, and no product reaches 2^53, up to
/// which Lua's numbers are exact.
/// </remarks>
internal abstract class Algorithm
{
    public const string FixedWindow = "fixed-window";
    public const string SlidingWindow = "sliding-window";
    public const string SlidingWindowCounter = "sliding-window-counter";
    public const string TokenBucket = "token-bucket";

    /// <summary>The part of the script of <see cref="StateCalls"/> that defines the algorithms.</summary>
    public static string Functions { get; } = string.Concat(
        "local algorithms = {}\n",
        Lua.Load(typeof(Algorithm), "fixed_window.lua"),
        Lua.Load(typeof(Algorithm), "sliding_window.lua"),
        Lua.Load(typeof(Algorithm), "sliding_window_counter.lua"),
        Lua.Load(typeof(Algorithm), "token_bucket.lua"));

    public static Algorithm New(string name) => name switch
    {
        FixedWindow => new FixedWindow(),
        SlidingWindow => new SlidingWindow(),
        SlidingWindowCounter => new SlidingWindowCounter(),
        TokenBucket => new TokenBucket(),
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "Unknown algorithm."),
    };

    /// <summary>Acquires permits if there are enough.</summary>
    /// <param name="now">Unix time in milliseconds.</param>
    /// <param name="window">In milliseconds.</param>
    /// <param name="cost">A number below zero refunds permits.</param>
    /// <param name="granted">When the refunded permits were granted; <c>null</c> if it was just now.</param>
    public abstract Permits Acquire(long now, long limit, long window, int cost, long? granted = null);

    /// <summary>
    /// The time that a state with windows uses. If the clock was set back to before the window, it is the window's start, because otherwise
    /// the window would begin anew and grant its permits twice.
    /// </summary>
    protected static long ClockOf(long start, long now, long window) => start <= now + window ? Math.Max(now, start) : now;

    /// <summary>Whether permits are refunded that another window granted: that refund changes nothing.</summary>
    protected static bool IsOfEarlierWindow(int cost, long? granted, long start, long window) =>
        cost < 0 && granted is { } time && time - time % window != start;

    protected static long CeilingOf(long dividend, long divisor) => dividend <= 0 ? 0 : (dividend - 1) / divisor + 1;
}
