namespace CachingApi.RateLimiting;

/// <summary>
/// A number of permits in each window. Windows begin at multiples of their length (Unix time). It is the cheapest algorithm; around the
/// border of two windows, up to twice the limit may pass within one window's length.
/// </summary>
/// <remarks>
/// Bound: each window grants at most its limit. Leased permits count in the window that granted them, and a lease ends with that window, so
/// the bound is the same with leases. If the clock is set back, the window goes on until the clock has caught up; if it is set back by
/// more than a window, the state begins anew.
/// </remarks>
internal sealed class FixedWindow : Algorithm
{
    private long _start;
    private long _spent;

    public override Permits Acquire(long now, long limit, long window, int cost, long? granted = null)
    {
        var clock = ClockOf(_start, now, window);
        var start = clock - clock % window;
        var left = start + window - now;
        (_start, _spent) = (start, _start == start ? _spent : 0);
        if (IsOfEarlierWindow(cost, granted, start, window))
        {
            cost = 0;
        }

        var available = limit - _spent;
        if (cost > available)
        {
            return new(left, Math.Max(0, available), left);
        }

        _spent = Math.Max(0, _spent + cost);
        return new(0, available, left);
    }
}
