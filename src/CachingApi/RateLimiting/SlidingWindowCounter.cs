namespace CachingApi.RateLimiting;

/// <summary>
/// Approximately a number of permits within any period of the window's length. It counts the permits of this window, and the part of the
/// previous window's permits that would still count if they were evenly distributed. It keeps two counters, whatever the limit is.
/// </summary>
/// <remarks>
/// <para>
/// Cloudflare, "How we built rate limiting capable of scaling to millions of domains" (2017): 0.003 % of requests were decided wrongly.
/// </para>
/// <para>
/// Bound: whenever a permit is used, the permits granted in its window so far, and those of the window before times the part that still
/// counts, are at most the limit. It is the same with leases: Redis counts leased permits when it grants them, the part of the window
/// before only shrinks until they are used, and a lease ends with its window. If the clock is set back, time stands at the window's
/// start until the clock has caught up; if it is set back by more than a window, the state begins anew.
/// </para>
/// </remarks>
internal sealed class SlidingWindowCounter : Algorithm
{
    private long _start;
    private long _current;
    private long _previous;

    public override Permits Acquire(long now, long limit, long window, int cost, long? granted = null)
    {
        var clock = ClockOf(_start, now, window);
        var start = clock - clock % window;
        var left = start + window - clock;
        (_start, _current, _previous) =
            _start == start ? (start, _current, _previous)
            : _start == start - window ? (start, 0, _current)
            : (start, 0, 0);
        if (IsOfEarlierWindow(cost, granted, start, window))
        {
            cost = 0;
        }

        var weighted = CeilingOf(_previous * left, window);
        var available = limit - _current - weighted;
        var wait = UntilFree(cost);
        if (wait == 0)
        {
            _current = Math.Max(0, _current + cost);
        }

        return new(wait, Math.Max(0, available), UntilFree(Math.Max(0, limit - _current - weighted) + 1));

        long UntilFree(long permits)
        {
            var room = limit - _current - permits;
            if (weighted <= room)
            {
                return 0;
            }

            if (room >= 0)
            {
                return clock - now + left - room * window / _previous;
            }

            // Not before the current window has become the previous one.
            return clock - now + left
                + (_current == 0 ? 0 : window - Math.Min(window, Math.Max(0, limit - permits) * window / _current));
        }
    }
}
