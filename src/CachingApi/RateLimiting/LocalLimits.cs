using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;

namespace CachingApi.RateLimiting;

/// <summary>
/// The limits' states in this process, which decide while Redis is unavailable. They also count the permits that this process acquires
/// from Redis, so that a client gains no permits by making Redis slow in the middle of a window.
/// </summary>
internal sealed class LocalLimits(TimeProvider time)
{
    /// <summary>The maximum number of keys. A flood of new keys evicts those that are seldom used, and uses no more memory.</summary>
    public const int Capacity = 10_000;

    private readonly ConcurrentLfu<string, Algorithm> _states =
        new(concurrencyLevel: 1, Capacity, new ThreadPoolScheduler(), StringComparer.Ordinal);

    public int Count => _states.Count;

    public Permits Acquire(PermitRequest request)
    {
        var policy = request.Policy;
        var state = _states.GetOrAdd(request.Key, static (_, name) => Algorithm.New(name), policy.Algorithm);
        var now = time.GetUtcNow().ToUnixTimeMilliseconds();
        lock (state)
        {
            return state.Acquire(
                now, policy.Limit, policy.WindowMilliseconds, request.Cost, request.Cost < 0 ? request.Grant.Time : null) with
            {
                Grant = new(now, 0),
            };
        }
    }

    /// <summary>Refunds permits that <see cref="Acquire"/> granted.</summary>
    public void Refund(PermitRequest request, Grant grant) => Acquire(request with { Cost = -request.Cost, Grant = grant });
}
