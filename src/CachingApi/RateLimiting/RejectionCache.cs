using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;

namespace CachingApi.RateLimiting;

/// <summary>
/// Rejections of requests, so that a denied key needs no round trip until there are permits again. A changed configuration ends a
/// rejection immediately.
/// </summary>
/// <remarks>
/// Redis counts leased permits as used, so a rejection may end before its time:
/// (1) another process leases permits; (2) the last of the others are used, and Redis denies a request of this process; (3) the other
/// process refunds its lease. So the first rejection by a policy that can be leased holds for 200 ms; by then, every lease of that moment
/// has ended. The next one holds until there are permits again.
/// </remarks>
internal sealed class RejectionCache(TimeProvider time)
{
    /// <summary>The maximum number of rejections. An evicted one costs a round trip.</summary>
    public const int Capacity = 10_000;

    private const long FirstMilliseconds = 200;

    private readonly ConcurrentLfu<(string Key, int Cost), Rejection> _rejections =
        new(concurrencyLevel: 1, Capacity, new ThreadPoolScheduler(), EqualityComparer<(string, int)>.Default);

    public int Count => _rejections.Count;

    /// <summary>The rejection that holds for a request; <c>null</c> if Redis must decide.</summary>
    public Rejection? Find(PermitRequest request)
    {
        if (!_rejections.TryGet((request.Key, request.Cost), out var rejection))
        {
            return null;
        }

        if (rejection.Policy == request.Policy && rejection.Left > 0)
        {
            return rejection.Holds ? rejection : null;
        }

        Forget(request);
        return null;
    }

    /// <param name="asked">The timestamp before Redis was asked: a rejection never outlives its cause.</param>
    public void Remember(PermitRequest request, Permits permits, long asked)
    {
        var first = PermitLeases.Allows(request.Policy);
        if (first
            && _rejections.TryGet((request.Key, request.Cost), out var earlier)
            && earlier.Policy == request.Policy
            && earlier.Left > 0)
        {
            if (earlier.HeldAt(asked))
            {
                return;
            }

            first = false;
        }

        var holds = first ? Math.Min(FirstMilliseconds, permits.Wait) : permits.Wait;
        _rejections.AddOrUpdate((request.Key, request.Cost), new(request.Policy, permits, asked, holds, time));
    }

    public void Forget(PermitRequest request) => _rejections.TryRemove((request.Key, request.Cost));
}

/// <summary>A rejection, because there were not enough permits, and how long it holds.</summary>
/// <param name="holds">Milliseconds for which it is the answer to further requests.</param>
internal sealed class Rejection(RateLimitPolicy policy, Permits permits, long asked, long holds, TimeProvider time)
{
    public RateLimitPolicy Policy => policy;

    public bool Holds => time.GetElapsedTime(asked).TotalMilliseconds < holds;

    /// <summary>Milliseconds until there are permits again.</summary>
    public long Left => permits.Wait - (long)time.GetElapsedTime(asked).TotalMilliseconds;

    public Permits Permits => permits with { Wait = Left, Reset = Math.Max(1, permits.Reset - permits.Wait + Left) };

    /// <summary>
    /// Whether the rejection already held at a timestamp: a request of that time was sent before the rejection was known.
    /// </summary>
    public bool HeldAt(long timestamp) => time.GetElapsedTime(asked, timestamp).TotalMilliseconds < holds;
}
