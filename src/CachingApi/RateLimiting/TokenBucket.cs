namespace CachingApi.RateLimiting;

/// <summary>
/// A bucket that holds a number of permits and fills evenly within the window: a burst may empty it, then permits come one by one.
/// </summary>
/// <remarks>
/// <para>
/// The state is the number of permits that are missing from a full bucket, so that a raised limit counts at once. It counts parts of a
/// permit: a permit has as many parts as the window has milliseconds, and <c>limit</c> parts come back in each millisecond. So no rounding
/// loses permits. If the clock is set back, no permit comes back until the clock has caught up; if it is set back by more than a window,
/// the bucket is full.
/// </para>
/// <para>
/// Bound without leases: in any period of d milliseconds, limit + d × limit / window permits are used. With leases:
/// limit + (d + 100) × limit / window, because each permit used in the period was taken at most 100 ms before the period:
/// (1) the bucket is full, and a process leases k permits; (2) within the next 100 ms, up to 100 × limit / window permits come back;
/// (3) other processes take all of the bucket, and the first uses its k permits at the same moment.
/// A refund does not add to that: it returns the permits minus those that the bucket gained since the grant, so the bucket never holds
/// more than if the permits had not been taken.
/// </para>
/// </remarks>
internal sealed class TokenBucket : Algorithm
{
    private long _missing;
    private long _at;

    public override Permits Acquire(long now, long limit, long window, int cost, long? granted = null)
    {
        (_missing, _at) = _at > now + window ? (0, now) : (Math.Max(0, _missing - Math.Max(0, now - _at) * limit), Math.Max(now, _at));

        var charge = cost * window;
        if (cost < 0 && granted is not null)
        {
            charge = Math.Min(0, charge + Math.Max(0, _at - granted.Value) * limit);
        }

        var full = limit * window;
        var available = (full - _missing) / window;
        var tooFew = CeilingOf(_missing + charge - full, limit);
        var wait = tooFew > 0 ? _at - now + tooFew : 0;
        if (wait == 0)
        {
            _missing = Math.Max(0, _missing + charge);
        }

        var tokens = Math.Max(0, (full - _missing) / window);
        return new(wait, Math.Max(0, available), _at - now + CeilingOf(_missing + (tokens + 1) * window - full, limit));
    }
}
