namespace CachingApi.RateLimiting;

/// <summary>
/// A number of permits within any period of the window's length, exactly. It stores the time of each permit (8 bytes), so limits are
/// bounded (<see cref="MaxLimit"/>).
/// </summary>
/// <remarks>
/// Bound: any period of the window's length grants at most the limit. A leased permit would be logged before it is used, so permits of this
/// algorithm are never leased. A permit is logged at the end of its millisecond, so that it never leaves the window early. If the clock is
/// set back, time stands still until the clock has caught up; if it is set back by more than a window, the log begins anew.
/// </remarks>
internal sealed class SlidingWindow : Algorithm
{
    public const int MaxLimit = 1000;

    private readonly List<long> _permits = [];

    public override Permits Acquire(long now, long limit, long window, int cost, long? granted = null)
    {
        var first = _permits.FindIndex(at => at + window > now);
        _permits.RemoveRange(0, first < 0 || _permits[^1] > now + window ? _permits.Count : first);
        var stamp = _permits.Count == 0 ? now + 1 : Math.Max(now + 1, _permits[^1]);

        var spent = _permits.Count;
        var wait = spent + cost > limit ? Until((int)(spent + cost - limit - 1)) : 0;
        if (wait == 0)
        {
            var kept = Math.Clamp(spent + cost, 0, spent);
            _permits.RemoveRange(kept, spent - kept);
            _permits.AddRange(Enumerable.Repeat(stamp, Math.Max(0, cost)));
        }

        return new(wait, Math.Max(0, limit - spent), spent == 0 ? window : Math.Min(window, Until((int)Math.Max(0, spent - limit))));

        long Until(int permit) => _permits.Count == 0 ? 0 : _permits[Math.Min(permit, _permits.Count - 1)] + window - now;
    }
}
