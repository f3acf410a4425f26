using System.ComponentModel.DataAnnotations;

namespace CachingApi.Weather;

/// <summary>The options of the weather's upstream: the section <c>Weather</c>.</summary>
internal sealed class WeatherOptions : IValidatableObject
{
    /// <summary>The base address of Open-Meteo's geocoding.</summary>
    public Uri GeocodingUrl { get; init; } = new("https://geocoding-api.open-meteo.com");

    /// <summary>The base address of Open-Meteo's forecasts, which include current weather.</summary>
    public Uri ForecastUrl { get; init; } = new("https://api.open-meteo.com");

    /// <summary>How long one call may take, including its body.</summary>
    [Range(typeof(TimeSpan), "00:00:00.100", "00:00:20")]
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(3);

    /// <summary>The cities whose weather is loaded at start, in the background.</summary>
    public string[] Prewarm { get; init; } = [];

    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext)
    {
        foreach (var (name, url) in new[] { (nameof(GeocodingUrl), GeocodingUrl), (nameof(ForecastUrl), ForecastUrl) })
        {
            if (url is not { IsAbsoluteUri: true, Scheme: "http" or "https" })
            {
                yield return new("an address that begins with http:// or https:// is expected", [name]);
            }
        }

        if (Prewarm.FirstOrDefault(city => CityName.Parse(city) is null) is { } bad)
        {
            yield return new($"'{bad}' is not the name of a city", [nameof(Prewarm)]);
        }
    }
}

/// <summary>How many calls all processes together may make: the section <c>Weather:Budget</c>.</summary>
internal sealed class BudgetOptions
{
    [Range(1, 1_000_000)]
    public int PerMinute { get; init; } = 480;

    [Range(1, 10_000_000)]
    public int PerHour { get; init; } = 4_000;

    [Range(1, 100_000_000)]
    public int PerDay { get; init; } = 8_000;
}
