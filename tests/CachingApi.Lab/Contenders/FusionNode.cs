using CachingApi.Orders;
using Microsoft.Extensions.Caching.StackExchangeRedis;
using Microsoft.Extensions.DependencyInjection;
using ZiggyCreatures.Caching.Fusion;
using ZiggyCreatures.Caching.Fusion.Backplane.StackExchangeRedis;
using ZiggyCreatures.Caching.Fusion.Locking.Distributed.Redis;
using ZiggyCreatures.Caching.Fusion.Serialization.SystemTextJson;

namespace CachingApi.Lab.Contenders;

/// <summary>FusionCache with its second level and its backplane, set up as its documentation shows.</summary>
internal sealed class FusionNode : INode
{
    private readonly ServiceProvider _services;
    private readonly IFusionCache _cache;
    private readonly Source _source;
    private readonly Setup _setup;

    private FusionNode(ServiceProvider services, Source source, Setup setup)
    {
        (_services, _source, _setup) = (services, source, setup);
        _cache = services.GetRequiredService<IFusionCache>();
    }

    public string Settings => $"`Duration` {Text.Of(_setup.Ttl)}, Redis as second level and backplane"
        + (!_setup.InMemory ? ", `SkipMemoryCache`"
            : _setup.MemoryTtl is { } memory ? $", `MemoryCacheDuration` {Text.Of(memory)}"
            : "")
        + (_setup.Jitter > 0 ? $", `JitterMaxDuration` {Text.Of(_setup.Ttl * _setup.Jitter)}" : "")
        + (_setup.EarlyRefresh ? ", `EagerRefreshThreshold` 0.9" : "")
        + (_setup.Locker ? ", distributed locker" : "")
        + (_setup.Resilient
            ? ", fail-safe, `FactorySoftTimeout` 100 ms, `DistributedCacheSoftTimeout` 1 s and `HardTimeout` 2 s, background operations, "
                + "circuit breaker 2 s (its step-by-step guide)"
            : "");

    public static async Task<INode> StartAsync(Lab lab, Source source, string prefix, Setup setup, CancellationToken cancel)
    {
        var redis = setup.Redis ?? lab.Redis;
        var services = new ServiceCollection();
        var fusion = services.AddFusionCache()
            .WithOptions(options =>
            {
                options.CacheKeyPrefix = $"{prefix}:";
                options.BackplaneChannelPrefix = prefix;
                options.DistributedCacheCircuitBreakerDuration = setup.Resilient ? TimeSpan.FromSeconds(2) : TimeSpan.Zero;
            })
            .WithDefaultEntryOptions(options => Configure(options, setup))
            .WithSerializer(new FusionCacheSystemTextJsonSerializer())
            .WithDistributedCache(new RedisCache(new RedisCacheOptions { Configuration = redis }))
            .WithBackplane(new RedisBackplane(new RedisBackplaneOptions { Configuration = redis }));
        if (setup.Locker)
        {
            fusion.WithDistributedLocker(new RedisDistributedLocker(new RedisDistributedLockerOptions { Configuration = redis }));
        }

        var node = new FusionNode(services.BuildServiceProvider(), source, setup);
        await node._cache.GetOrSetAsync<int>("started", (_, _) => Task.FromResult(1), token: cancel); // subscribes to the backplane
        return node;
    }

    public async Task<Order?> GetAsync(string id, CancellationToken cancel) =>
        await _cache.GetOrSetAsync<Order?>(id, async (_, stop) => await _source.LoadAsync(id, stop), token: cancel);

    public async Task<long> WriteAsync(string id, int quantity, Update update, CancellationToken cancel)
    {
        var order = await _source.CommitAsync(id, quantity, cancel);
        switch (update)
        {
            case Update.Invalidate:
                await _cache.RemoveAsync(id, token: cancel);
                break;
            case Update.Replace:
                await _cache.SetAsync<Order?>(id, order, token: cancel);
                break;
        }

        return order.Version;
    }

    public async Task CreatedAsync(Order order, CancellationToken cancel) => await _cache.RemoveAsync(order.Id, token: cancel);

    public ValueTask DisposeAsync() => _services.DisposeAsync();

    private static void Configure(FusionCacheEntryOptions options, Setup setup)
    {
        options.Duration = setup.Ttl;
        options.MemoryCacheDuration = setup.InMemory ? setup.MemoryTtl : null;
        (options.SkipMemoryCacheRead, options.SkipMemoryCacheWrite) = (!setup.InMemory, !setup.InMemory);
        options.JitterMaxDuration = setup.Ttl * setup.Jitter;
        options.EagerRefreshThreshold = setup.EarlyRefresh ? 0.9f : null;
        if (setup.Resilient)
        {
            options.SetFailSafe(true, TimeSpan.FromHours(2), TimeSpan.FromSeconds(30))
                .SetFactoryTimeouts(TimeSpan.FromMilliseconds(100), TimeSpan.FromMilliseconds(1500))
                .SetDistributedCacheTimeouts(TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(2), true);
        }
    }
}
