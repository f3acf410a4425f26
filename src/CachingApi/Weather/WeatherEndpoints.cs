using System.ComponentModel.DataAnnotations;
using CachingApi.Hosting;
using CachingApi.RateLimiting;

namespace CachingApi.Weather;

internal static class WeatherEndpoints
{
    /// <summary>
    /// The policies of the route, of a look-up of an uncached city (by address and by network), and of a refresh of cached weather.
    /// </summary>
    private const string Limit = "weather",
        MissLimit = "weather-miss",
        MissNetworkLimit = "weather-miss-network",
        RefreshLimit = "weather-refresh";

    public static void MapWeather(this IEndpointRouteBuilder routes) =>
        routes.MapGet("/weather/{city}", Find).WithName("getWeather").WithTags("Weather").AllowAnonymous().RequireRateLimit(Limit).Cached()
            .DeferRateLimit(Limit, cost: 2).DeferRateLimit(MissLimit).DeferRateLimit(MissNetworkLimit).DeferRateLimit(RefreshLimit)
            .RefuseOtherSites(context => !CrossSite.IsNavigation(context.Request))
            .Produces<WeatherReport>().Produces(StatusCodes.Status304NotModified)
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status404NotFound, StatusCodes.Status503ServiceUnavailable);

    /// <summary>Returns the current weather in a city.</summary>
    /// <remarks>
    /// The latest observation, at most 15 minutes old. If the upstream does not deliver a newer one, it is older, and <c>stale</c> is true.
    /// <c>Cache-Status</c> distinguishes hit and miss. If the ETag in <c>If-None-Match</c> is still current, the answer is 304.
    /// </remarks>
    /// <param name="city" example="Zurich">The city's name, in any language and spelling; a country may follow after a comma.</param>
    /// <param name="units"><c>metric</c>: °C and km/h; <c>imperial</c>: °F and mph.</param>
    internal static async Task<IResult> Find(
        [CityName] string city,
        WeatherService weather,
        RequestLimits limits,
        HttpContext context,
        WeatherReports reports,
        CancellationToken cancel,
        [AllowedValues(UnitsOfMeasure.Metric, UnitsOfMeasure.Imperial, ErrorMessage = UnitsOfMeasure.OneOf)]
        string units = UnitsOfMeasure.Metric)
    {
        // All clients share the budget of calls upstream. If this client has used up its part, it is served the cached entry, or is
        // refused.
        async Task<bool> AdmitAsync(bool isCached)
        {
            if (isCached)
            {
                return await limits.TryAcquireDeferredAsync(context, RefreshLimit);
            }

            return await limits.AcquireDeferredAsync(context, Limit, MissLimit, MissNetworkLimit) is { } refusal
                ? throw new RefusedException(refusal)
                : true;
        }

        try
        {
            return Answer(await weather.FindAsync(CityName.Parse(city)!.Value, AdmitAsync, cancel), units, reports);
        }
        catch (RefusedException refused)
        {
            return refused.Answer;
        }
    }

    private static CachedJson Answer(CityWeather found, string units, WeatherReports reports)
    {
        var (answer, place, observation, lifetimes) = found;
        var cacheControl = CachedJson.Public(answer.Entry, lifetimes);
        return place is null || observation is null
            ? new(answer, cacheControl)
            : new(answer, cacheControl, reports.Render(found, place, observation, units));
    }

    /// <summary>The caller may not cause a look-up upstream now.</summary>
    private sealed class RefusedException(IResult answer) : Exception
    {
        public IResult Answer => answer;
    }
}
