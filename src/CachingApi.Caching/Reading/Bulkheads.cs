using System.Collections.Concurrent;
using System.Threading.RateLimiting;
using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>
/// A bulkhead per cache: it bounds the loads at a time, so that the slow source of one cache does not slow down another cache. Without
/// Redis, there are no leases, and only memory has hits: then the bounds are lower, and a load that would wait behind many others is
/// refused.
/// </summary>
internal sealed class Bulkheads : IDisposable
{
    private readonly ConcurrentDictionary<string, Bulkhead> _bulkheads = new();

    /// <summary>Waits for a permit to load.</summary>
    /// <exception cref="UnavailableException">Too many loads of this cache are already waiting.</exception>
    public async Task<RateLimitLease> EnterAsync(Cache cache, bool redisAnswers, CancellationToken cancel)
    {
        var bulkhead = _bulkheads.GetOrAdd(cache.Name, static (_, loads) => new(loads), cache.MaxLoads);
        var permit = await (redisAnswers ? bulkhead.WithRedis : bulkhead.WithoutRedis).AcquireAsync(1, cancel);
        if (!permit.IsAcquired)
        {
            permit.Dispose();
            throw new UnavailableException(redisAnswers ? "The source, which has too many loads to do," : "Redis is away, and the source");
        }

        return permit;
    }

    public void Dispose()
    {
        foreach (var bulkhead in _bulkheads.Values)
        {
            bulkhead.WithRedis.Dispose();
            bulkhead.WithoutRedis.Dispose();
        }
    }

    private sealed class Bulkhead(int loads)
    {
        public ConcurrencyLimiter WithRedis { get; } = Limiter(permits: loads, queue: 4096);

        public ConcurrencyLimiter WithoutRedis { get; } = Limiter(permits: loads / 2, queue: 256);

        private static ConcurrencyLimiter Limiter(int permits, int queue) =>
            new(new() { PermitLimit = permits, QueueLimit = queue, QueueProcessingOrder = QueueProcessingOrder.OldestFirst });
    }
}
