using System.Runtime.CompilerServices;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Caching;
using CachingApi.Hosting;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

/// <summary>
/// Renders the body of an answer from its two entries. While memory serves the same entries, the body is rendered once.
/// </summary>
internal sealed class WeatherReports(IOptions<JsonOptions> json)
{
    private readonly ConditionalWeakTable<CacheEntry, Rendered> _rendered = [];
    private readonly JsonTypeInfo<WeatherReport> _type =
        (JsonTypeInfo<WeatherReport>)json.Value.SerializerOptions.GetTypeInfo(typeof(WeatherReport));

    /// <summary>The body of an answer, and its ETag.</summary>
    public (byte[] Body, string ETag) Render(CityWeather found, Place place, Observation observation, string units)
    {
        var stale = found.Answer.Outcome is CacheOutcome.StaleIfError or CacheOutcome.StaleWhileRevalidate;
        if (_rendered.TryGetValue(found.Answer.Entry, out var held) && held.Is(place, units, stale))
        {
            return (held.Body, held.ETag);
        }

        var body = JsonSerializer.SerializeToUtf8Bytes(WeatherReport.Of(place, observation, units, stale), _type);
        var etag = ETags.Of(body);
        _rendered.AddOrUpdate(found.Answer.Entry, new(place, units, stale, body, etag));
        return (body, etag);
    }

    /// <remarks>If two callers alternate between units, each renders the body again; both get the right one.</remarks>
    private sealed record Rendered(Place Place, string Units, bool Stale, byte[] Body, string ETag)
    {
        public bool Is(Place place, string units, bool stale) => units == Units && stale == Stale && place == Place;
    }
}
