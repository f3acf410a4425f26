






namespace CachingApi.Caching.Operations;

/// <summary>Whether the Redis of the caches can be used: for health checks.</summary>
public sealed class CachingHealth
{
    private readonly RedisTier _tier;
    private readonly RedisCalls _calls;

    internal CachingHealth(RedisTier tier, RedisCalls calls) => (_tier, _calls) = (tier, calls);

    /// <summary>
    /// Whether the caches use Redis, as far as is known without asking it: not while its circuit is open, nor before it has every
    /// invalidation of this process. Without a configured Redis, <c>true</c>.
    /// </summary>
    public bool IsRedisInUse => !_tier.IsConfigured || _tier.IsTrusted;

    /// <summary>
    /// Whether every master of the Redis answers and takes writes, and has every invalidation of this process. If not, reads go to the
    /// source. Without a configured Redis, <c>true</c>.
    /// </summary>
    public async Task<bool> IsRedisUsableAsync(CancellationToken cancel) =>
        !_tier.IsConfigured || (_tier.IsTrusted && await _calls.ProbeAsync(cancel));
}
