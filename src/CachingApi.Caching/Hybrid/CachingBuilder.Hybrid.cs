using CachingApi.Caching.Hybrid;
using Microsoft.Extensions.Caching.Hybrid;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

public sealed partial class CachingBuilder
{
    /// <summary>
    /// Adds a <see cref="HybridCache"/> on the engine's tiers and applies the settings. Further calls only apply their settings.
    /// </summary>
    public CachingBuilder AddHybridCache(Action<HybridCacheSettings>? configure = null)
    {
        var settings = Services.AddOptions<HybridCacheSettings>();
        if (configure is not null)
        {
            settings.Configure(configure);
        }

        if (Services.All(service => service.ServiceType != typeof(TieredHybridCache)))
        {
            settings.ValidateOnStart();
            Services.AddSingleton<IValidateOptions<HybridCacheSettings>, HybridCacheSettingsValidator>();
            Services.TryAddSingleton<Replacement>();
            Services
                .AddSingleton<TagTable>()
                .AddSingleton<HybridFormat>()
                .AddSingleton<HybridCodecs>()
                .AddSingleton<TieredHybridCache>()
                .AddSingleton<HybridCache>(provider => provider.GetRequiredService<TieredHybridCache>())
                .AddSingleton<Cache>(provider => provider.GetRequiredService<TieredHybridCache>().Entries);
        }

        return this;
    }
}
