using System.Globalization;
using CachingApi.Caching;
using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

/// <summary>The section <c>Cache:Geocoding</c>: cities stay where they are.</summary>
internal sealed class GeocodingCacheSettings : CacheSettings;

/// <summary>The section <c>Cache:Weather</c>: an observation holds until the next one is due; the TTL is the upper bound of that.</summary>
internal sealed class WeatherCacheSettings : CacheSettings;

/// <summary>The keys and lifetimes of what is cached of the weather.</summary>
internal sealed class WeatherCache(IOptions<GeocodingCacheSettings> geocoding, IOptions<WeatherCacheSettings> weather)
{
    /// <summary>Where the upstream is late with an observation, it is asked again after this long.</summary>
    private static readonly TimeSpan AskAgainAfter = TimeSpan.FromMinutes(1);

    public Cache<Place> Places { get; } = new("geocoding", geocoding.Value, WeatherJson.Default.Place, _ => 0, requiresBackplane: false);

    public Cache<Observation> Observations { get; } = new(
        "weather", weather.Value, WeatherJson.Default.Observation, _ => 0, requiresBackplane: false, (observed, now) => FreshUntil(observed, now, weather.Value.Jitter));

    public CacheSettings PlaceSettings => geocoding.Value;

    public CacheSettings ObservationSettings => weather.Value;

    /// <summary>Where a city is: <c>geocoding:…:&lt;name&gt;</c>.</summary>
    public CacheKey<Place> PlaceOf(CityName city) => Places.Key(city.Text);

    /// <summary>What is observed at a place: <c>weather:…:&lt;latitude&gt;,&lt;longitude&gt;</c>, to the kilometre, so that all names of a city share it.</summary>
    public CacheKey<Observation> ObservationAt(Place place) =>
        Observations.Key(string.Create(CultureInfo.InvariantCulture, $"{place.Latitude:0.00},{place.Longitude:0.00}"));

    /// <summary>Until the next observation is due, and a little longer, so that what is due together is not asked for together.</summary>
    private static DateTimeOffset FreshUntil(Observation observed, DateTimeOffset now, double jitter)
    {
        var due = observed.At + observed.Interval * (1 + jitter * Random.Shared.NextDouble());
        var soonest = now + AskAgainAfter;
        return due > soonest ? due : soonest;
    }
}
