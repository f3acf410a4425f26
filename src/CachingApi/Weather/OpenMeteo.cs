using System.Globalization;
using System.Net;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Redis;
using Microsoft.Extensions.Options;
using Polly;
using Polly.CircuitBreaker;

namespace CachingApi.Weather;

/// <summary>The client of Open-Meteo (https://open-meteo.com/en/docs): HTTP only.</summary>
internal sealed partial class OpenMeteo(
    IHttpClientFactory clients,
    UpstreamBudget budget,
    IOptions<WeatherOptions> options,
    ILogger<OpenMeteo> log)
{
    public const string ClientName = "open-meteo";

    /// <summary>The header that a fake upstream sends with each answer, so that clients can recognise invented weather.</summary>
    public const string FakeHeader = "X-Fake-Upstream";

    private const string Attribution = "Weather data by Open-Meteo.com (https://open-meteo.com/), CC BY 4.0";
    private const string FakeAttribution = "Fake: invented by a stand-in for Open-Meteo.com";
    private const string Variables = "temperature_2m,apparent_temperature,relative_humidity_2m,weather_code,wind_speed_10m";

    /// <summary>
    /// The place of a city; <c>null</c> if no city has this name. If several have it, the upstream returns the largest first.
    /// </summary>
    /// <param name="isNew">Whether the city is new: see <see cref="UpstreamBudget"/>.</param>
    /// <exception cref="UnavailableException">The upstream gives no usable answer.</exception>
    public async Task<Place?> FindAsync(CityName city, bool isNew, CancellationToken cancel)
    {
        var (found, _) = await GetAsync(
            $"{Base(options.Value.GeocodingUrl)}/v1/search?name={Uri.EscapeDataString(city.Text)}&count=1&language=en&format=json",
            OpenMeteoJson.Default.Search,
            isNew,
            cancel);
        return found.Results switch
        {
            null or [] => null,
            [{ Name: { Length: > 0 } name, Latitude: >= -90 and <= 90, Longitude: >= -180 and <= 180 } place, ..] => new()
            {
                Name = name,
                Country = place.Country,
                Latitude = place.Latitude,
                Longitude = place.Longitude,
            },
            _ => throw Unusable(),
        };
    }

    /// <summary>The latest observation at a place.</summary>
    /// <param name="isNew">Whether the city is new: see <see cref="UpstreamBudget"/>.</param>
    /// <exception cref="UnavailableException">The upstream gives no usable answer.</exception>
    public async Task<Observation> ObserveAsync(Place place, bool isNew, CancellationToken cancel)
    {
        var (forecast, isFake) = await GetAsync(
            string.Create(
                CultureInfo.InvariantCulture,
                $"{Base(options.Value.ForecastUrl)}/v1/forecast?latitude={place.Latitude:0.00}&longitude={place.Longitude:0.00}"
                + $"&current={Variables}"),
            OpenMeteoJson.Default.Forecast,
            isNew,
            cancel);
        return forecast.Current is { } current
            && Finite(current.Temperature) is { } temperature
            && DateTime.TryParse(
                current.Time,
                CultureInfo.InvariantCulture,
                DateTimeStyles.AssumeUniversal | DateTimeStyles.AdjustToUniversal,
                out var local)
            && local.Year is > 1900 and < 9000
            ? new()
            {
                Temperature = temperature,
                ApparentTemperature = Finite(current.ApparentTemperature),
                Humidity = Finite(current.Humidity),
                WindSpeed = Finite(current.WindSpeed),
                WeatherCode = (int?)current.WeatherCode,
                // The time is the local time of the place, without its offset.
                At = local.AddSeconds(-forecast.UtcOffsetSeconds),
                Interval = TimeSpan.FromSeconds(current.Interval ?? 900),
                Attribution = isFake ? FakeAttribution : Attribution,
            }
            : throw Unusable();
    }

    private async Task<(T Answer, bool IsFake)> GetAsync<T>(string url, JsonTypeInfo<T> json, bool isNew, CancellationToken cancel)
        where T : class
    {
        try
        {
            using var client = clients.CreateClient(ClientName);
            using var request = new HttpRequestMessage(HttpMethod.Get, new Uri(url));
            request.Options.Set(UpstreamBudget.IsNew, isNew);
            using var response = await client.SendAsync(request, cancel);
            var body = await response.Content.ReadAsByteArrayAsync(cancel);
            return response.IsSuccessStatusCode
                ? (JsonSerializer.Deserialize(body, json) ?? throw Unusable(), response.Headers.Contains(FakeHeader))
                : throw await RefusedAsync(response, body, cancel);
        }
        catch (BrokenCircuitException error)
        {
            throw new UnavailableException("Open-Meteo", error) { RetryAfter = error.RetryAfter ?? OpenMeteoSetup.BreakDuration };
        }
        catch (Exception error) when (error is HttpRequestException or ExecutionRejectedException or JsonException)
        {
            Log.NoAnswer(log, error.GetType().Name, error.Message);
            throw new UnavailableException("Open-Meteo", error);
        }
    }

    /// <summary>Interprets an error. Only its reason tells when to try again.</summary>
    private async Task<UnavailableException> RefusedAsync(HttpResponseMessage response, byte[] body, CancellationToken cancel)
    {
        var status = (int)response.StatusCode;
        var reason = Reason(body);
        Log.Refused(log, status, reason);
        var wait = response.Headers.RetryAfter?.Delta ?? TimeSpan.FromSeconds(1);
        if (response.StatusCode is HttpStatusCode.TooManyRequests && UpstreamBudget.WindowOf(reason) is { } window)
        {
            wait = await budget.ExhaustAsync(window, cancel);
        }

        return new("Open-Meteo") { RetryAfter = wait, Status = status };
    }

    private static string Reason(byte[] body)
    {
        try
        {
            return JsonSerializer.Deserialize(body, OpenMeteoJson.Default.Refusal)?.Reason ?? "";
        }
        catch (JsonException)
        {
            return "";
        }
    }

    /// <summary>A number that JSON can represent: <c>1e999</c> is read as infinity.</summary>
    private static double? Finite(double? value) => value is { } number && double.IsFinite(number) ? number : null;

    private static string Base(Uri url) => url.AbsoluteUri.TrimEnd('/');

    private static UnavailableException Unusable() => new("A usable answer of Open-Meteo") { Status = StatusCodes.Status200OK };

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "Open-Meteo answered {Status}: {Reason}")]
        public static partial void Refused(ILogger log, int status, string reason);

        [LoggerMessage(2, LogLevel.Warning, "Open-Meteo gave no usable answer: {Error}: {Reason}")]
        public static partial void NoAnswer(ILogger log, string error, string reason);
    }
}

/// <summary>The answer to a search. Empty and zero values are left out, even the results.</summary>
internal sealed record Search
{
    public IReadOnlyList<Match>? Results { get; init; }

    internal sealed record Match
    {
        public string? Name { get; init; }

        public string? Country { get; init; }

        public double Latitude { get; init; }

        public double Longitude { get; init; }
    }
}

/// <summary>The answer to a forecast. Any value may be <c>null</c>.</summary>
internal sealed record Forecast
{
    [JsonPropertyName("utc_offset_seconds")]
    public int UtcOffsetSeconds { get; init; }

    public CurrentWeather? Current { get; init; }

    internal sealed record CurrentWeather
    {
        public string? Time { get; init; }

        public int? Interval { get; init; }

        [JsonPropertyName("temperature_2m")]
        public double? Temperature { get; init; }

        [JsonPropertyName("apparent_temperature")]
        public double? ApparentTemperature { get; init; }

        [JsonPropertyName("relative_humidity_2m")]
        public double? Humidity { get; init; }

        [JsonPropertyName("weather_code")]
        public double? WeatherCode { get; init; }

        [JsonPropertyName("wind_speed_10m")]
        public double? WindSpeed { get; init; }
    }
}

/// <summary>The answer in case of an error.</summary>
internal sealed record Refusal
{
    public string? Reason { get; init; }
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase)]
[JsonSerializable(typeof(Search))]
[JsonSerializable(typeof(Forecast))]
[JsonSerializable(typeof(Refusal))]
internal sealed partial class OpenMeteoJson : JsonSerializerContext;
