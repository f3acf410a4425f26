using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;

namespace CachingApi.RateLimiting;

/// <summary>
/// The limits' states in this process: they decide while Redis is away. They also hear of what Redis lets through here, so that
/// making Redis slow in the middle of a window gains nothing.
/// </summary>
internal sealed class LocalLimits(TimeProvider time)
{
    /// <summary>How many keys are held at most: a flood of new ones displaces what is seldom asked for, and takes no more memory.</summary>
    public const int Capacity = 10_000;

    private readonly ConcurrentLfu<string, Algorithm> _states =
        new(concurrencyLevel: 1, Capacity, new ThreadPoolScheduler(), StringComparer.Ordinal);

    public int Count => _states.Count;

    public Permits Spend(Demand demand)
    {
        var policy = demand.Policy;
        var state = _states.GetOrAdd(demand.Key, static (_, name) => Algorithm.New(name), policy.Algorithm);
        lock (state)
        {
            return state.Spend(time.GetUtcNow().ToUnixTimeMilliseconds(), policy.Limit, policy.WindowMilliseconds, demand.Cost);
        }
    }

    public void GiveBack(Demand demand) => Spend(demand with { Cost = -demand.Cost });
}
