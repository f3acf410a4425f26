namespace CachingApi.RateLimiting;

/// <summary>
/// A bucket that holds so many permits and fills evenly within the window: a burst may empty it, then permits come one by one.
/// </summary>
/// <remarks>
/// What is missing from a full bucket is kept, so that a raised limit counts at once. It is counted in parts of a permit: a
/// permit is as many as the window has milliseconds, as <c>limit</c> parts come back in each. So nothing is lost to rounding.
/// Where the clock was set back, nothing comes back until it has caught up; by more than a window, and the bucket is full.
/// </remarks>
internal sealed class TokenBucket : Algorithm
{
    private long _missing;
    private long _at;

    public override Permits Spend(long now, long limit, long window, int cost)
    {
        (_missing, _at) = _at > now + window ? (0, now) : (Math.Max(0, _missing - Math.Max(0, now - _at) * limit), Math.Max(now, _at));

        var full = limit * window;
        var available = (full - _missing) / window;
        var tooFew = CeilingOf(_missing + cost * window - full, limit);
        var wait = tooFew > 0 ? _at - now + tooFew : 0;
        if (wait == 0)
        {
            _missing = Math.Max(0, _missing + cost * window);
        }

        var tokens = Math.Max(0, (full - _missing) / window);
        return new(wait, Math.Max(0, available), _at - now + CeilingOf(_missing + (tokens + 1) * window - full, limit));
    }
}
