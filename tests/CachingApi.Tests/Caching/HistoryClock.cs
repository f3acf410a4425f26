using System.Diagnostics;

namespace CachingApi.Tests.Caching;

/// <summary>
/// The time in which this machine ran the test: a stall between two readings of the clock counts as <see cref="Longest"/> at most.
/// </summary>
/// <remarks>
/// A bound such as "within a second" is a promise of the service, not of a machine that suspends it for two. All callers read
/// the clock, and a timer reads it every 10 ms, so a gap between two readings is time in which no thread of the test ran.
/// </remarks>
internal sealed class HistoryClock : IDisposable
{
    private static readonly TimeSpan Longest = TimeSpan.FromMilliseconds(50);

    private readonly Lock _lock = new();
    private readonly Timer _timer;
    private long _last = Stopwatch.GetTimestamp();
    private TimeSpan _now;

    public HistoryClock() => _timer = new(_ => Now(), null, TimeSpan.Zero, TimeSpan.FromMilliseconds(10));

    /// <summary>The longest gap between two readings: how late this machine was at worst.</summary>
    public TimeSpan LongestStall { get; private set; }

    /// <summary>All stalls together, as far as they are not counted.</summary>
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
