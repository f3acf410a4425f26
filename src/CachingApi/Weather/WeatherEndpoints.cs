using System.ComponentModel.DataAnnotations;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Caching;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

internal static class WeatherEndpoints
{
    public static IServiceCollection AddWeather(this IServiceCollection services)
    {
        services.AddValidatedOptions<GeocodingCacheSettings>("Cache:Geocoding");
        services.AddValidatedOptions<WeatherCacheSettings>("Cache:Weather");
        services.AddValidatedOptions<WeatherOptions>("Weather");
        services.AddValidatedOptions<BudgetOptions>("Weather:Budget");
        services.AddJson(WeatherJson.Default);
        return services
            .AddOpenMeteo()
            .AddSingleton<WeatherCache>()
            .AddSingleton<WeatherService>()
            .AddSingleton<WeatherWarming>()
            .AddSingleton(provider => provider.GetRequiredService<WeatherWarming>().Observations)
            .AddSingleton(provider => provider.GetRequiredService<WeatherWarming>().Places);
    }

    public static void MapWeather(this IEndpointRouteBuilder routes) =>
        routes.MapGet("/weather/{city}", Find).WithTags("Weather").AllowAnonymous().RequireRateLimit("weather").Cached()
            .DeferRateLimit("weather", cost: 2).DeferRateLimit("weather-miss")
            .Produces<WeatherReport>().Produces(StatusCodes.Status304NotModified)
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status404NotFound, StatusCodes.Status503ServiceUnavailable);

    /// <summary>Says what the weather is in a city.</summary>
    /// <remarks>
    /// The latest observation, a quarter of an hour old at most. When no newer one can be had it is older, and <c>stale</c>.
    /// <c>Cache-Status</c> tells hit from miss; an ETag given as <c>If-None-Match</c> is answered by 304 while it still holds.
    /// </remarks>
    /// <param name="city">The city's name, in any language and spelling; a country may follow after a comma.</param>
    /// <param name="units"><c>metric</c>: °C and km/h; <c>imperial</c>: °F and mph.</param>
    internal static async Task<IResult> Find(
        [CityName] string city,
        WeatherService weather,
        WeatherCache cached,
        RequestLimits limits,
        HttpContext context,
        IOptions<JsonOptions> json,
        CancellationToken cancel,
        [AllowedValues(UnitsOfMeasure.Metric, UnitsOfMeasure.Imperial)] string units = UnitsOfMeasure.Metric)
    {
        // A city that is not cached is looked for upstream, whose budget is everybody's.
        async Task AdmitAsync()
        {
            if (await limits.AcquireDeferredAsync(context) is { } refusal)
            {
                throw new RefusedException(refusal);
            }
        }

        try
        {
            return Answer(await weather.FindAsync(CityName.Parse(city)!.Value, AdmitAsync, cancel), units, cached, json);
        }
        catch (RefusedException refused)
        {
            return refused.Answer;
        }
    }

    private static CachedJson Answer(CityWeather found, string units, WeatherCache cached, IOptions<JsonOptions> json)
    {
        var (answer, place, observation) = found;
        if (place is null || observation is null)
        {
            return new CachedJson(answer, CachedJson.Public(answer.Entry, cached.PlaceSettings));
        }

        var stale = answer.Outcome is CacheOutcome.StaleIfError or CacheOutcome.StaleWhileRevalidate;
        var report = WeatherReport.Of(place, observation, units, stale);
        var type = (JsonTypeInfo<WeatherReport>)json.Value.SerializerOptions.GetTypeInfo(typeof(WeatherReport));
        return new CachedJson(
            answer, CachedJson.Public(answer.Entry, cached.ObservationSettings), JsonSerializer.SerializeToUtf8Bytes(report, type));
    }

    /// <summary>The caller may not cause a look-up upstream now.</summary>
    private sealed class RefusedException(IResult answer) : Exception
    {
        public IResult Answer => answer;
    }
}
