using System.Globalization;
using System.Text.Json.Serialization;

namespace CachingApi.Weather;

/// <summary>The current weather in a city.</summary>
public sealed record WeatherReport
{
    /// <summary>The city's English name.</summary>
    /// <example>Zurich</example>
    public required string City { get; init; }

    /// <summary>The country's English name; <c>null</c> if there is none.</summary>
    /// <example>Switzerland</example>
    public required string? Country { get; init; }

    /// <summary>Degrees north.</summary>
    /// <example>47.36667</example>
    public required double Latitude { get; init; }

    /// <summary>Degrees east.</summary>
    /// <example>8.55</example>
    public required double Longitude { get; init; }

    /// <summary>°C, or °F with <c>units=imperial</c>.</summary>
    /// <example>21.4</example>
    public required double Temperature { get; init; }

    /// <summary>The apparent temperature, in the same unit; <c>null</c> if it is not known.</summary>
    /// <example>20.9</example>
    public required double? ApparentTemperature { get; init; }

    /// <summary>Relative humidity in per cent; <c>null</c> if it is not known.</summary>
    /// <example>58</example>
    public required double? Humidity { get; init; }

    /// <summary>km/h, or mph with <c>units=imperial</c>; <c>null</c> if it is not known.</summary>
    /// <example>7.6</example>
    public required double? WindSpeed { get; init; }

    /// <summary>The weather code in words; <c>Unknown</c> if it is not known.</summary>
    /// <example>Partly cloudy</example>
    public required string Conditions { get; init; }

    /// <summary>The WMO weather code; <c>null</c> if it is not known.</summary>
    /// <example>2</example>
    public required int? WeatherCode { get; init; }

    /// <summary><c>metric</c> or <c>imperial</c>.</summary>
    /// <example>metric</example>
    public required string Units { get; init; }

    /// <summary>The time of the observation.</summary>
    public required DateTime ObservedAt { get; init; }

    /// <summary>Whether a newer observation is due that the upstream has not delivered.</summary>
    /// <example>false</example>
    public required bool Stale { get; init; }

    /// <summary>The source of the data.</summary>
    /// <example>Weather data by Open-Meteo.com (https://open-meteo.com/), CC BY 4.0</example>
    public required string Attribution { get; init; }

    /// <param name="units">See <see cref="UnitsOfMeasure"/>.</param>
    internal static WeatherReport Of(Place place, Observation observed, string units, bool stale)
    {
        var imperial = units is UnitsOfMeasure.Imperial;
        return new()
        {
            City = place.Name,
            Country = place.Country,
            Latitude = place.Latitude,
            Longitude = place.Longitude,
            Temperature = Degrees(observed.Temperature),
            ApparentTemperature = observed.ApparentTemperature is { } apparent ? Degrees(apparent) : null,
            Humidity = observed.Humidity,
            WindSpeed = observed.WindSpeed is { } wind ? Rounded(imperial ? wind / 1.609344 : wind) : null,
            Conditions = WeatherCodes.Text(observed.WeatherCode),
            WeatherCode = observed.WeatherCode,
            Units = units,
            ObservedAt = observed.At,
            Stale = stale,
            Attribution = observed.Attribution,
        };

        double Degrees(double celsius) => Rounded(imperial ? celsius * 9 / 5 + 32 : celsius);
    }

    /// <summary>To one decimal; a negative zero is zero.</summary>
    private static double Rounded(double value) => Math.Round(value, 1) + 0.0;
}

/// <summary>The values of <c>units</c>.</summary>
internal static class UnitsOfMeasure
{
    public const string Metric = "metric";
    public const string Imperial = "imperial";

    /// <summary>The message for any other name.</summary>
    public const string OneOf = $"One of {Metric}, {Imperial}.";
}

/// <summary>The place of a city, as it is cached. Another release may have cached it, so a new property must not be required.</summary>
internal sealed record Place
{
    private string? _observationKey;

    public required string Name { get; init; }

    public required string? Country { get; init; }

    public required double Latitude { get; init; }

    public required double Longitude { get; init; }

    /// <summary>
    /// The key of the observation at this place: <c>weather:…:&lt;latitude&gt;,&lt;longitude&gt;</c>, accurate to a kilometre, so that all
    /// names of a city share it.
    /// </summary>
    [JsonIgnore]
    public string ObservationKey => _observationKey ??= string.Create(CultureInfo.InvariantCulture, $"{Latitude:0.00},{Longitude:0.00}");
}

/// <summary>
/// An observation at a place, as it is cached: in °C, per cent and km/h, one entry for both units. Another release may have cached it, so
/// a new property must not be required.
/// </summary>
internal sealed record Observation
{
    public required double Temperature { get; init; }

    public required double? ApparentTemperature { get; init; }

    public required double? Humidity { get; init; }

    public required double? WindSpeed { get; init; }

    public required int? WeatherCode { get; init; }

    /// <summary>The time of the observation, in UTC.</summary>
    public required DateTime At { get; init; }

    /// <summary>The time until the next observation is due.</summary>
    public required TimeSpan Interval { get; init; }

    public required string Attribution { get; init; }
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase)]
[JsonSerializable(typeof(WeatherReport))]
[JsonSerializable(typeof(Place))]
[JsonSerializable(typeof(Observation))]
internal sealed partial class WeatherJson : JsonSerializerContext;
