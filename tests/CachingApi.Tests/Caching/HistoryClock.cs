using System.Diagnostics;

namespace CachingApi.Tests.Caching;

/// <summary>
/// The time in which this machine ran the test: a stall between two readings of the clock counts as at most <see cref="Longest"/>.
/// </summary>
/// <remarks>
/// The service promises a bound such as "within a second", but a machine may suspend it for two. All callers read the clock, and a timer
/// reads it every 10 ms, so a gap between two readings is time in which no thread of the test ran.
/// </remarks>
internal sealed class HistoryClock : IDisposable
{
    private static readonly TimeSpan Longest = TimeSpan.FromMilliseconds(50);

    private readonly Lock _lock = new();
    private readonly Timer _timer;
    private long _last = Stopwatch.GetTimestamp();
    private TimeSpan _now;

    public HistoryClock() => _timer = new(_ => Now(), null, TimeSpan.Zero, TimeSpan.FromMilliseconds(10));

    /// <summary>The longest gap between two readings.</summary>
    public TimeSpan LongestStall { get; private set; }

    /// <summary>The sum of the parts of stalls that are not counted.</summary>
    public TimeSpan Stalled { get; private set; }

    public TimeSpan Now()
    {
        lock (_lock)
        {
            var last = _last;
            _last = Stopwatch.GetTimestamp();
            var passed = Stopwatch.GetElapsedTime(last, _last);
            LongestStall = passed > LongestStall ? passed : LongestStall;
            Stalled += passed > Longest ? passed - Longest : TimeSpan.Zero;
            return _now += passed < Longest ? passed : Longest;
        }
    }

    public void Dispose() => _timer.Dispose();
}
