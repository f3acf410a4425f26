using CachingApi.Caching.Hybrid;
using Microsoft.Extensions.Caching.Hybrid;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>Registers the <see cref="HybridCache"/>.</summary>
public static class HybridCacheSetup
{
    /// <summary>
    /// Adds a <see cref="HybridCache"/> on the engine's tiers and applies the settings. Further calls only apply their settings.
    /// </summary>
    public static CachingBuilder AddHybridCache(this CachingBuilder caching, Action<HybridCacheSettings>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(caching);
        var settings = caching.Services.AddOptions<HybridCacheSettings>();
        if (configure is not null)
        {
            settings.Configure(configure);
        }

        if (caching.Services.All(service => service.ServiceType != typeof(TieredHybridCache)))
        {
            settings.ValidateOnStart();
            caching.Services.AddSingleton<IValidateOptions<HybridCacheSettings>, HybridCacheSettingsValidator>();
            caching.Services.TryAddSingleton<Replacement>();
            caching.Services
                .AddSingleton<TagTable>()
                .AddSingleton<HybridFormat>()
                .AddSingleton<HybridCodecs>()
                .AddSingleton<TieredHybridCache>()
                .AddSingleton<HybridCache>(provider => provider.GetRequiredService<TieredHybridCache>())
                .AddSingleton<Cache>(provider => provider.GetRequiredService<TieredHybridCache>().Entries);
        }

        return caching;
    }
}
