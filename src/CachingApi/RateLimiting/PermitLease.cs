namespace CachingApi.RateLimiting;

/// <summary>Permits that Redis has counted as used, for this process to use until the lease ends.</summary>
/// <param name="request">The request whose call leased them.</param>
/// <param name="permits">How many permits were leased.</param>
/// <param name="answer">The answer to that request.</param>
/// <param name="sent">A timestamp before the call was sent.</param>
internal sealed class PermitLease(PermitRequest request, int permits, Permits answer, long sent, TimeProvider time)
{
    /// <summary>A lease is at most one part in this many of the permits that remain; the script has the number, too.</summary>
    public const int Share = 16;

    private const long MaxMilliseconds = 100;

    /// <summary>One millisecond because Redis's time is rounded down, and one because clocks run at different rates.</summary>
    private const long MarginMilliseconds = 2;

    private const int Closed = int.MinValue;

    private readonly long _ends = sent + (long)(LengthOf(request.Policy, answer.Grant) * (time.TimestampFrequency / 1000.0));
    private int _left = permits;

    public PermitRequest Request => request;

    public bool HasEnded => time.GetTimestamp() >= _ends;

    /// <summary>The answer to a request that used the lease. All leased permits count as used.</summary>
    public Permits AnswerTo(PermitRequest other)
    {
        var elapsed = (long)time.GetElapsedTime(sent).TotalMilliseconds;
        return answer with
        {
            Available = answer.Available - request.Cost + other.Cost,
            Reset = Math.Max(1, answer.Reset - elapsed),
        };
    }

    public bool Covers(PermitRequest other) => other.Policy == request.Policy && Volatile.Read(ref _left) >= other.Cost && !HasEnded;

    /// <summary>Acquires permits, unless there are too few or the lease has ended.</summary>
    public bool TryAcquire(int cost) => !HasEnded && TryTake(cost);

    /// <summary>Returns permits that were acquired but not used.</summary>
    /// <returns><c>false</c> if the lease is closed: then the permits must be refunded.</returns>
    public bool TryReturn(int cost) => TryTake(-cost);

    /// <summary>Closes the lease, so that no further permit can be acquired from it.</summary>
    /// <returns>The remaining permits, to be refunded; <c>null</c> if there are none.</returns>
    public PermitRequest? Close() => Interlocked.Exchange(ref _left, Closed) is > 0 and var left ? Unused(left) : null;

    /// <summary>Permits of this lease, to be refunded.</summary>
    public PermitRequest Unused(int cost) => request with { Cost = cost, Grant = answer.Grant, Lease = null };

    private bool TryTake(int cost)
    {
        var left = Volatile.Read(ref _left);
        while (left >= Math.Max(0, cost))
        {
            var before = Interlocked.CompareExchange(ref _left, left - cost, left);
            if (before == left)
            {
                return true;
            }

            left = before;
        }

        return false;
    }

    /// <remarks>A token bucket has no windows.</remarks>
    private static long LengthOf(RateLimitPolicy policy, Grant grant) => policy.Algorithm is Algorithm.TokenBucket
        ? MaxMilliseconds
        : Math.Min(MaxMilliseconds, policy.WindowMilliseconds - grant.Time % policy.WindowMilliseconds - MarginMilliseconds);
}
