using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

internal static class CachingSetup
{
    public static IServiceCollection AddCaching(this IServiceCollection services)
    {
        services.AddValidatedOptions<CachingOptions>("Cache");
        services.AddSingleton(provider =>
            new SingleFlight<CacheResult>(provider.GetRequiredService<IOptions<CachingOptions>>().Value.LoadTimeout));
        return services
            .AddSingleton<CacheMetrics>()
            .AddSingleton<CircuitBreaker>()
            .AddSingleton<Incarnations>()
            .AddSingleton<SeenRevisions>()
            .AddSingleton<EntrySizeLimit>()
            .AddSingleton<Bulkheads>()
            .AddSingleton<OwedInvalidations>()
            .AddSingleton<Backplane>()
            .AddSingleton<MemoryTier>()
            .AddSingleton<Leases>()
            .AddSingleton(_ => new EarlyRefresh(Random.Shared.NextDouble))
            .AddSingleton<RedisTier>()
            .AddSingleton<Namespaces>()
            .AddSingleton<CacheAside>()
            .AddSingleton<Invalidation>()
            .AddSingleton<WriteThrough>()
            .AddSingleton<Inspection>()
            .AddHostedService(provider => provider.GetRequiredService<Backplane>())
            .AddHostedService<RedisRecovery>()
            .AddHostedService<ChangeCapture>()
            .AddSingleton<Warming>()
            .AddHostedService(provider => provider.GetRequiredService<Warming>())
            .AddSingleton<ConsistencyChecker>()
            .AddHostedService(provider => provider.GetRequiredService<ConsistencyChecker>());
    }

    /// <summary>Lets a feature write behind.</summary>
    public static IServiceCollection AddWriteBehind(this IServiceCollection services, Func<IServiceProvider, WriteBehindTarget> target)
    {
        services.AddValidatedOptions<WriteBehindOptions>("WriteBehind");
        return services
            .AddSingleton<WriteBehindMetrics>()
            .AddSingleton<WriteBehindQueue>()
            .AddSingleton<DiskBarrier>()
            .AddSingleton<WriteBehind>()
            .AddSingleton(target)
            .AddHostedService<WriteBehindConsumer>();
    }
}
