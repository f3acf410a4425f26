using CachingApi.Hosting;

namespace CachingApi.Administration;

internal static class AdministrationSetup
{
    public static IServiceCollection AddCacheAdministration(this IServiceCollection services)
    {
        services.AddJson(CacheJson.Default);
        services.AddJson(CacheStatsJson.Default);
        services.AddJson(DeadLetterJson.Default);
        return services.AddSingleton<Measurements>()
            .AddSingleton<DegradedParts>()
            .AddSingleton<CacheStatistics>()
            .AddSingleton<StatsHistory>()
            .AddHostedService(provider => provider.GetRequiredService<StatsHistory>())
            .AddSingleton<StatsExchange>()
            .AddHostedService(provider => provider.GetRequiredService<StatsExchange>());
    }
}
