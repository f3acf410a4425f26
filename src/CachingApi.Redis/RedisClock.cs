namespace CachingApi.Redis;

/// <summary>A moment by the time since this machine's start, which is independent of adjustments of its clock.</summary>
internal readonly record struct Moment(long Milliseconds)
{
    public static Moment Now => new(Environment.TickCount64);
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
