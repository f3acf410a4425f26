using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;

namespace CachingApi.RateLimiting;

/// <summary>
/// Who has been denied: until there are permits again that needs no round trip. A changed configuration ends a denial at once.
/// </summary>
internal sealed class Denials(TimeProvider time)
{
    /// <summary>How many are remembered at most; who is forgotten costs a round trip.</summary>
    public const int Capacity = 10_000;

    private readonly ConcurrentLfu<(string Key, int Cost), Denial> _denials =
        new(concurrencyLevel: 1, Capacity, new ThreadPoolScheduler(), EqualityComparer<(string, int)>.Default);

    public int Count => _denials.Count;

    /// <summary>The denial that holds for a demand; <c>null</c> where there is none, or none any more.</summary>
    public Denial? Find(Demand demand)
    {
        if (!_denials.TryGet((demand.Key, demand.Cost), out var denial))
        {
            return null;
        }

        if (denial.Policy == demand.Policy && denial.Left > 0)
        {
            return denial;
        }

        Forget(demand);
        return null;
    }

    /// <param name="asked">The timestamp before Redis was asked: a denial never outlives its cause.</param>
    public void Remember(Demand demand, Permits permits, long asked) =>
        _denials.AddOrUpdate((demand.Key, demand.Cost), new(demand.Policy, permits, asked, time));

    public void Forget(Demand demand) => _denials.TryRemove((demand.Key, demand.Cost));
}

/// <summary>That there were not enough permits, and for how long.</summary>
internal sealed class Denial(RateLimitPolicy policy, Permits permits, long asked, TimeProvider time)
{
    public RateLimitPolicy Policy => policy;

    /// <summary>Milliseconds until it ends.</summary>
    public long Left => permits.Wait - (long)time.GetElapsedTime(asked).TotalMilliseconds;

    public Permits Permits => permits with { Wait = Left, Reset = Math.Max(1, permits.Reset - permits.Wait + Left) };
}
