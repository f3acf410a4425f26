namespace CachingApi.Caching;

/// <summary>
/// The time that lifetimes are compared with. It reads the machine's clock once per tick of the coarse clock, every few milliseconds,
/// because reading the clock costs as much as a look-up in memory.
/// </summary>
internal sealed class CoarseClock(TimeProvider time)
{
    private readonly bool _isMachine = time == TimeProvider.System;
    private volatile Reading _last = new(long.MinValue, default);

    public DateTimeOffset UtcNow
    {
        get
        {
            if (!_isMachine)
            {
                return time.GetUtcNow();
            }

            var (tick, last) = (Environment.TickCount64, _last);
            if (last.Tick != tick)
            {
                _last = last = new(tick, time.GetUtcNow());
            }

            return last.Time;
        }
    }

    private sealed record Reading(long Tick, DateTimeOffset Time);
}
