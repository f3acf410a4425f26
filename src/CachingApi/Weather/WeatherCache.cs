using CachingApi.Caching;
using CachingApi.Redis;
using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

/// <summary>The section <c>Cache:Geocoding</c>: cities stay where they are.</summary>
internal sealed class GeocodingCacheOptions : CacheOptions;

/// <summary>The section <c>Cache:Weather</c>: an observation holds until the next one is due; the TTL is the upper bound of that.</summary>
internal sealed class WeatherCacheOptions : CacheOptions;

/// <summary>The caches of the weather: places of cities, and observations.</summary>
internal static class WeatherCache
{
    /// <summary>If the upstream is late with an observation, it is asked again after this long.</summary>
    private static readonly TimeSpan AskAgainAfter = TimeSpan.FromMinutes(1);

    /// <remarks>
    /// Both are warmed with the configured cities, by name, one at a time, as the upstream answers. If half of its budget is spent, no more
    /// are loaded, because the rest is for clients.
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

    /// <summary>Where a city is: <c>geocoding:…:&lt;name&gt;</c>.</summary>
    public static string KeyOf(CityName city) => city.Text;

    /// <summary>
    /// Until the next observation is due, and a little longer, so that observations that are due together are not requested together.
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
        warming.Load = (provider, key, cancel) => provider.GetRequiredService<UpstreamBudget>().IsHalfSpent
            ? throw new UnavailableException("What is left of the budget of calls to Open-Meteo is for clients: it")
            : load(provider.GetRequiredService<WeatherService>(), CityName.Parse(key)!.Value, cancel);
    }
}
