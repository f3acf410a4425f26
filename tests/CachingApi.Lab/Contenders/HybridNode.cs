using CachingApi.Orders;
using Microsoft.Extensions.Caching.Hybrid;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Lab.Contenders;

/// <summary>Microsoft's HybridCache over Redis, set up as its documentation shows.</summary>
internal sealed class HybridNode : INode
{
    private readonly ServiceProvider _services;
    private readonly HybridCache _cache;
    private readonly Source _source;
    private readonly Setup _setup;

    private HybridNode(ServiceProvider services, Source source, Setup setup)
    {
        (_services, _source, _setup) = (services, source, setup);
        _cache = services.GetRequiredService<HybridCache>();
    }

    public string Settings => $"`Expiration` {Text.Of(_setup.Ttl)}, "
        + (_setup.InMemory ? $"`LocalCacheExpiration` {Text.Of(_setup.MemoryTtl ?? _setup.Ttl)}" : "`DisableLocalCache`")
        + ", Redis as second level";

    public static Task<INode> StartAsync(Lab lab, Source source, string prefix, Setup setup, CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        var services = new ServiceCollection();
        services.AddStackExchangeRedisCache(redis => (redis.Configuration, redis.InstanceName) = (setup.Redis ?? lab.Redis, $"{prefix}:"));
        services.AddHybridCache(hybrid => hybrid.DefaultEntryOptions = new()
        {
            Expiration = setup.Ttl,
            LocalCacheExpiration = setup.InMemory ? setup.MemoryTtl ?? setup.Ttl : setup.Ttl,
            Flags = setup.InMemory ? HybridCacheEntryFlags.None : HybridCacheEntryFlags.DisableLocalCache,
        });
        return Task.FromResult<INode>(new HybridNode(services.BuildServiceProvider(), source, setup));
    }

    public async Task<Order?> GetAsync(string id, CancellationToken cancel) =>
        await _cache.GetOrCreateAsync<Order?>(id, async stop => await _source.LoadAsync(id, stop), cancellationToken: cancel);

    public async Task<long> WriteAsync(string id, int quantity, Update update, CancellationToken cancel)
    {
        var order = await _source.CommitAsync(id, quantity, cancel);
        switch (update)
        {
            case Update.Invalidate:
                await _cache.RemoveAsync(id, cancel);
                break;
            case Update.Replace:
                await _cache.SetAsync<Order?>(id, order, cancellationToken: cancel);
                break;
        }

        return order.Version;
    }

    public async Task CreatedAsync(Order order, CancellationToken cancel) => await _cache.RemoveAsync(order.Id, cancel);

    public ValueTask DisposeAsync() => _services.DisposeAsync();
}
