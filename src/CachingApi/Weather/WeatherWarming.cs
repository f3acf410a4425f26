using CachingApi.Caching;
using CachingApi.Storage;
using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

/// <summary>
/// What the caches of the weather are warmed with: the configured cities. They are keyed by the city's name, and loaded one at a
/// time, as the upstream answers; when half of its budget is spent no more, as the rest is for those who ask.
/// </summary>
internal sealed class WeatherWarming(WeatherCache cached, WeatherService weather, UpstreamBudget budget, IOptions<WeatherOptions> options)
{
    public ManagedCache Observations =>
        Of(cached.Observations, async (city, cancel) => await weather.FindAsync(city, admit: null, cancel), options.Value.Prewarm.Length);

    public ManagedCache Places =>
        Of(cached.Places, async (city, cancel) => await weather.FindPlaceAsync(city, admit: null, cancel), atStart: 0);

    private ManagedCache Of(Cache cache, Func<CityName, CancellationToken, Task> load, int atStart) => new(
        cache,
        key => CityName.Parse(key) is { } city ? cancel => budget.IsHalfSpent ? throw Reserved() : load(city, cancel) : null,
        (count, _) => Task.FromResult<IReadOnlyList<string>>([.. options.Value.Prewarm.Take(count)]),
        atStart,
        Parallelism: 1);

    private static UnavailableException Reserved() => new("What is left of the budget of calls to Open-Meteo is for those who ask: it");
}
