namespace CachingApi.RateLimiting;

/// <summary>
/// So many permits in each window; windows begin at multiples of their length (Unix time). The cheapest; around the border of
/// two windows up to twice the limit may pass within one window's length.
/// </summary>
internal sealed class FixedWindow : Algorithm
{
    private long _start;
    private long _spent;

    public override Permits Spend(long now, long limit, long window, int cost)
    {
        var start = now - now % window;
        var left = start + window - now;
        (_start, _spent) = (start, _start == start ? _spent : 0);

        var available = limit - _spent;
        if (cost > available)
        {
            return new(left, Math.Max(0, available), left);
        }

        _spent = Math.Max(0, _spent + cost);
        return new(0, available, left);
    }
}
