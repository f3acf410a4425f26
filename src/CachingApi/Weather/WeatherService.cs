using System.Collections.Frozen;
using System.Text.Json;
using CachingApi.Caching;
using CachingApi.Storage;
using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

/// <summary>What is known of a city's weather, each part by the caching pattern that suits it.</summary>
internal sealed class WeatherService(OpenMeteo openMeteo, WeatherCache cached, CacheAside cacheAside, IOptions<WeatherOptions> options)
{
    /// <summary>The cities of the configuration are never new: no client has made them up.</summary>
    private readonly FrozenSet<string> _configured = options.Value.Prewarm.Select(city => CityName.Parse(city)!.Value.Text).ToFrozenSet();

    /// <summary>Cache-aside, twice.</summary>
    /// <param name="admit">Called before the caller waits for a city that is not cached; it may refuse the caller by an exception.</param>
    /// <exception cref="UnavailableException">The upstream gives no answer of use, and none is kept.</exception>
    public async Task<CityWeather> FindAsync(CityName city, Func<Task>? admit, CancellationToken cancel)
    {
        try
        {
            var found = await FindPlaceAsync(city, admit, cancel);
            if (!found.Found)
            {
                return new(found, null, null);
            }

            var place = JsonSerializer.Deserialize(found.Entry.Body.Span, WeatherJson.Default.Place)!;
            var wasFoundNow = found.Outcome is CacheOutcome.Miss or CacheOutcome.Bypass;
            var observed = await ObserveAsync(place, wasFoundNow && IsNew(city), wasFoundNow ? null : admit, cancel);
            var observation = JsonSerializer.Deserialize(observed.Entry.Body.Span, WeatherJson.Default.Observation)!;
            return new(Together(found, observed), place, observation);
        }
        catch (TimeoutException error)
        {
            throw new UnavailableException("Open-Meteo", error);
        }
    }

    /// <summary>Cache-aside: where a city is, for days; that there is no such city, briefly.</summary>
    public ValueTask<CacheResult> FindPlaceAsync(CityName city, Func<Task>? admit, CancellationToken cancel) =>
        cacheAside.GetAsync(cached.PlaceOf(city), stop => openMeteo.FindAsync(city, IsNew(city), stop), admit, cancel);

    /// <summary>Cache-aside, fresh until the next observation is due; stale when that cannot be had.</summary>
    /// <param name="isNew">Whether the city is new: see <see cref="UpstreamBudget"/>.</param>
    private ValueTask<CacheResult> ObserveAsync(Place place, bool isNew, Func<Task>? admit, CancellationToken cancel) =>
        cacheAside.GetAsync(
            cached.ObservationAt(place), async stop => (Observation?)await openMeteo.ObserveAsync(place, isNew, stop), admit, cancel);

    private bool IsNew(CityName city) => !_configured.Contains(city.Text);

    /// <summary>The answer is the observation's; but where the city had to be looked for upstream, it is no hit.</summary>
    private static CacheResult Together(CacheResult found, CacheResult observed) =>
        observed.Outcome is CacheOutcome.MemoryHit or CacheOutcome.RedisHit
        && found.Outcome is CacheOutcome.Miss or CacheOutcome.Refreshed or CacheOutcome.Bypass
            ? found with { Entry = observed.Entry }
            : observed;
}

/// <summary>The cache's answer for a city, and what it holds; nothing where there is no such city.</summary>
internal readonly record struct CityWeather(CacheResult Answer, Place? Place, Observation? Observation);
