using System.Diagnostics;

namespace CachingApi.Redis;

/// <summary>A moment by the time since this machine's start, which is independent of adjustments of its clock.</summary>
/// <param name="Ticks">As those of <see cref="Stopwatch"/>: two events that are a round trip apart never have the same moment.</param>
internal readonly record struct Moment(long Ticks)
{
    public static Moment Now => new(Stopwatch.GetTimestamp());

    public long Milliseconds => Ticks / (Stopwatch.Frequency / 1000);

    public TimeSpan Since(Moment earlier) => TimeSpan.FromSeconds((double)(Ticks - earlier.Ticks) / Stopwatch.Frequency);

    public Moment Plus(TimeSpan span) => new(Ticks + (long)(span.TotalSeconds * Stopwatch.Frequency));
}

/// <summary>
/// The clock of Redis, by the times in its replies. A script compares the time that a write carries with the server's time, so that time
/// must not depend on this machine's clock.
/// </summary>
internal sealed class RedisClock
{
    private long _ahead = long.MinValue;

    /// <summary>Records the time in a reply, in Unix milliseconds.</summary>
    public void Observe(long time) => Volatile.Write(ref _ahead, time - Moment.Now.Milliseconds);

    /// <summary>The time of Redis's clock at a moment, or earlier, in Unix milliseconds; <c>null</c> before its first reply.</summary>
    public long? TimeOf(Moment moment) => Volatile.Read(ref _ahead) is var ahead and not long.MinValue ? moment.Milliseconds + ahead : null;
}
