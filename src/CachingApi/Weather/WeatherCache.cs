using CachingApi.Caching;
using CachingApi.Redis;
using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

/// <summary>The section <c>Cache:Geocoding</c>. The places of cities do not change.</summary>
internal sealed class GeocodingCacheOptions : CacheOptions;

/// <summary>The section <c>Cache:Weather</c>. An observation is fresh until the next one is due; the TTL is the upper bound.</summary>
internal sealed class WeatherCacheOptions : CacheOptions;

/// <summary>The caches of the weather: places of cities, and observations.</summary>
internal static class WeatherCache
{
    /// <summary>If an observation of the upstream is late, this is the time until the next call.</summary>
    private static readonly TimeSpan AskAgainAfter = TimeSpan.FromMinutes(1);

    /// <remarks>
    /// Both are warmed with the configured cities, by name, one at a time, because the upstream answers one call at a time. If half of its
    /// budget is spent, the warming stops, because the rest is for clients.
    /// </remarks>
    public static IServiceCollection AddWeatherCaches(this IServiceCollection services)
    {
        services.AddValidatedOptions<GeocodingCacheOptions>("Cache:Geocoding");
        services.AddValidatedOptions<WeatherCacheOptions>("Cache:Weather");
        services.AddCaching()
            .AddCache<Observation>("weather", cache => cache
                .Options<WeatherCacheOptions>()
                .Json(WeatherJson.Default.Observation)
                .Immutable()
                .FreshUntil(provider =>
                {
                    var jitter = provider.GetRequiredService<IOptions<WeatherCacheOptions>>().Value.Jitter;
                    return (observed, now) => FreshUntil(observed, now, jitter);
                })
                .ExpiresOnly()
                .WarmWith<IOptions<WeatherOptions>>(ConfiguredAsync, warming =>
                {
                    warming.AtStart = provider => provider.GetRequiredService<IOptions<WeatherOptions>>().Value.Prewarm.Length;
                    ByCity(warming, async (weather, city, cancel) => await weather.FindAsync(city, admit: null, cancel));
                }))
            .AddCache<Place>("geocoding", cache => cache
                .Options<GeocodingCacheOptions>()
                .Json(WeatherJson.Default.Place)
                .Immutable()
                .ExpiresOnly()
                .WarmWith<IOptions<WeatherOptions>>(ConfiguredAsync, warming =>
                    ByCity(warming, async (weather, city, cancel) => await weather.FindPlaceAsync(city, admit: null, cancel))));
        return services;
    }

    /// <summary>The key of a city's place: <c>geocoding:…:&lt;name&gt;</c>.</summary>
    public static string KeyOf(CityName city) => city.Text;

    /// <summary>
    /// The time when the next observation is due, plus jitter, so that observations that are due together are not requested together.
    /// </summary>
    private static DateTimeOffset FreshUntil(Observation observed, DateTimeOffset now, double jitter)
    {
        var due = observed.At + observed.Interval * (1 + jitter * Random.Shared.NextDouble());
        var soonest = now + AskAgainAfter;
        return due > soonest ? due : soonest;
    }

    private static Task<IReadOnlyList<string>> ConfiguredAsync(IOptions<WeatherOptions> options, int count, CancellationToken cancel) =>
        Task.FromResult<IReadOnlyList<string>>([.. options.Value.Prewarm.Take(count)]);

    private static void ByCity(WarmingOptions warming, Func<WeatherService, CityName, CancellationToken, Task> load)
    {
        warming.Parallelism = 1;
        warming.IsKey = key => CityName.Parse(key) is not null;
        warming.KeyForm = "The name of a city";
        warming.Load = (provider, key, cancel) => provider.GetRequiredService<UpstreamBudget>().IsHalfSpent
            ? throw new UnavailableException("The rest of the budget of calls to Open-Meteo, which is for clients,")
            : load(provider.GetRequiredService<WeatherService>(), CityName.Parse(key)!.Value, cancel);
    }
}
