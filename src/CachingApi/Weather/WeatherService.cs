using System.Collections.Frozen;
using CachingApi.Caching;
using CachingApi.Redis;
using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

/// <summary>The weather of a city: place and observation, each by the caching pattern that suits it.</summary>
internal sealed class WeatherService(
    OpenMeteo openMeteo,
    Cache<Place> places,
    Cache<Observation> observations,
    IOptions<WeatherOptions> options)
{
    /// <summary>The cities of the configuration are never new, because clients do not choose them.</summary>
    private readonly FrozenSet<string> _configured = options.Value.Prewarm.Select(city => CityName.Parse(city)!.Value.Text).ToFrozenSet();

    /// <summary>Cache-aside, twice.</summary>
    /// <param name="admit">See <see cref="CacheAside"/>.</param>
    /// <exception cref="UnavailableException">The upstream gives no usable answer, and none is cached.</exception>
    public async Task<CityWeather> FindAsync(CityName city, Func<bool, Task<bool>>? admit, CancellationToken cancel)
    {
        try
        {
            var found = await FindPlaceAsync(city, admit, cancel);
            if (!found.Found)
            {
                return new(found.Untyped, null, null, places.Options);
            }

            var place = found.Value!;
            var wasFoundNow = found.Outcome is CacheOutcome.Miss or CacheOutcome.Bypass;
            var observed = await ObserveAsync(city, place, wasFoundNow ? null : admit, cancel);
            var observation = observed.Value!;
            return new(Together(found.Untyped, observed.Untyped), place, observation, observations.Options);
        }
        catch (TimeoutException error)
        {
            throw new UnavailableException("Open-Meteo", error);
        }
    }

    /// <summary>Cache-aside: the place of a city is cached for days, "not found" briefly.</summary>
    public ValueTask<CacheResult<Place>> FindPlaceAsync(CityName city, Func<bool, Task<bool>>? admit, CancellationToken cancel) =>
        places.GetAsync(WeatherCache.KeyOf(city), stop => openMeteo.FindAsync(city, IsNew(city), stop), admit, cancel);

    /// <summary>Cache-aside: fresh until the next observation is due, stale if the upstream does not deliver it.</summary>
    /// <remarks>The city is new (see <see cref="UpstreamBudget"/>) if no observation of it is cached.</remarks>
    private ValueTask<CacheResult<Observation>> ObserveAsync(
        CityName city, Place place, Func<bool, Task<bool>>? admit, CancellationToken cancel)
    {
        var isNew = IsNew(city);
        return observations.GetAsync(
            place.ObservationKey, async stop => (Observation?)await openMeteo.ObserveAsync(place, isNew, stop), AdmitAsync, cancel);

        Task<bool> AdmitAsync(bool isCached)
        {
            isNew &= !isCached;
            return admit?.Invoke(isCached) ?? Task.FromResult(true);
        }
    }

    private bool IsNew(CityName city) => !_configured.Contains(city.Text);

    /// <summary>The answer of the observation; but if the city was looked up upstream, it is not a hit.</summary>
    private static CacheResult Together(CacheResult found, CacheResult observed) =>
        observed.Outcome is CacheOutcome.MemoryHit or CacheOutcome.RedisHit
        && found.Outcome is CacheOutcome.Miss or CacheOutcome.Refreshed or CacheOutcome.Bypass
            ? found with { Entry = observed.Entry }
            : observed;
}

/// <summary>The cache's answer for a city, with place and observation; both are <c>null</c> if the city does not exist.</summary>
/// <param name="Lifetimes">The lifetimes of the entry in the answer.</param>
internal readonly record struct CityWeather(CacheResult Answer, Place? Place, Observation? Observation, CacheOptions Lifetimes);
