namespace CachingApi.Redis;

/// <summary>A moment by this machine's clock since its start, which no adjustment moves.</summary>
internal readonly record struct Moment(long Milliseconds)
{
    public static Moment Now => new(Environment.TickCount64);
}

/// <summary>
/// The clock of Redis, as its replies give it: the time that a write carries is compared by a script with that server's time, so
/// it must not depend on this machine's clock.
/// </summary>
internal sealed class RedisClock
{
    private long _ahead = long.MinValue;

    /// <summary>Takes note of the time in a reply, in Unix milliseconds.</summary>
    public void Observe(long time) => Volatile.Write(ref _ahead, time - Moment.Now.Milliseconds);

    /// <summary>What Redis's clock showed at a moment, or less, in Unix milliseconds; <c>null</c> before its first reply.</summary>
    public long? TimeOf(Moment moment) => Volatile.Read(ref _ahead) is var ahead and not long.MinValue ? moment.Milliseconds + ahead : null;
}
