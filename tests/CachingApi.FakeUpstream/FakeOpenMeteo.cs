using System.Buffers;
using System.Collections.Concurrent;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;

namespace CachingApi.FakeUpstream;

/// <summary>A fault of an upstream.</summary>
public enum UpstreamFault
{
    None,

    /// <summary>429, and the reason names this minute.</summary>
    MinutelyLimit,

    /// <summary>429, and the reason names this hour.</summary>
    HourlyLimit,

    /// <summary>429, and the reason names this day.</summary>
    DailyLimit,

    /// <summary>503.</summary>
    Overloaded,

    /// <summary>400 to every request.</summary>
    BadRequest,

    /// <summary>200, and JSON that ends in an error message half-way.</summary>
    BrokenJson,

    /// <summary>200, and JSON without usable content.</summary>
    EmptyJson,

    /// <summary>200, and JSON with impossible values.</summary>
    AbsurdJson,

    /// <summary>200, and a body that arrives byte by byte, for minutes.</summary>
    Trickle,

    /// <summary>No answer at all.</summary>
    Hang,
}

/// <summary>
/// A stand-in for Open-Meteo's geocoding and forecast APIs: the same fields, omissions, errors and reasons, one request at a time. The
/// weather is invented, and each answer is marked by the header <c>X-Fake-Upstream</c>.
/// </summary>
public sealed class FakeOpenMeteo : IAsyncDisposable
{
    public const string Search = "/v1/search";
    public const string Forecast = "/v1/forecast";

    private const int Interval = 900;
    private const int MaxWaiting = 5;

    private static readonly Dictionary<string, string> Units = new()
    {
        ["temperature_2m"] = "°C",
        ["relative_humidity_2m"] = "%",
        ["apparent_temperature"] = "°C",
        ["is_day"] = "",
        ["precipitation"] = "mm",
        ["weather_code"] = "wmo code",
        ["wind_speed_10m"] = "km/h",
        ["wind_direction_10m"] = "°",
    };

    private readonly TimeProvider _time;
    private readonly WebApplication _app;
    private readonly SemaphoreSlim _turn = new(1);
    private readonly CancellationTokenSource _stop = new();
    private readonly ConcurrentQueue<string> _calls = new();
    private int _present;

    private FakeOpenMeteo(TimeProvider time, WebApplication app) => (_time, _app) = (time, app);

    /// <summary>The base address of both APIs.</summary>
    public string Address => _app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.First();

    /// <summary>The fault of the next answers.</summary>
    public UpstreamFault Fault { get; set; }

    /// <summary>The API that fails; by default both.</summary>
    public string FailingPath { get; set; } = "/";

    /// <summary>How many requests fail before it works again; by default all.</summary>
    public int Failures { get; set; } = int.MaxValue;

    /// <summary>How long every answer takes.</summary>
    public TimeSpan Delay { get; set; }

    /// <summary>How far the places' time is ahead of UTC.</summary>
    public TimeSpan UtcOffset { get; set; }

    /// <summary>Whether it reports that offset; if not, its times are wrong by it.</summary>
    public bool ReportsOffset { get; set; } = true;

    /// <summary>Values that replace the invented ones everywhere; <c>null</c> for a missing value.</summary>
    public Dictionary<string, double?> Values { get; } = [];

    /// <summary>All requests, path and query.</summary>
    public IReadOnlyCollection<string> Calls => _calls;

    /// <summary>The maximum number of simultaneous requests so far.</summary>
    public int MostAtOnce { get; private set; }

    public static async Task<FakeOpenMeteo> StartAsync(TimeProvider time, params string[] arguments)
    {
        var builder = WebApplication.CreateSlimBuilder(arguments);
        builder.Logging.SetMinimumLevel(LogLevel.Warning);
        var app = builder.Build();
        var fake = new FakeOpenMeteo(time, app);
        app.Use(fake.AnswerAsync);
        app.MapGet(Search, SearchAsync);
        app.MapGet(Forecast, fake.ForecastAsync);
        await app.StartAsync();
        return fake;
    }

    public int CallsOf(string path) => _calls.Count(call => call.StartsWith(path, StringComparison.Ordinal));

    public Task EndedAsync() => _app.WaitForShutdownAsync();

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _app.DisposeAsync();
        _stop.Dispose();
        _turn.Dispose();
    }

    /// <summary>One request at a time; a few may wait, the others are refused.</summary>
    private async Task AnswerAsync(HttpContext context, RequestDelegate next)
    {
        _calls.Enqueue(context.Request.Path + context.Request.QueryString);
        context.Response.Headers["X-Fake-Upstream"] = "true";
        var present = Interlocked.Increment(ref _present);
        using var gone = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, _stop.Token);
        try
        {
            MostAtOnce = Math.Max(MostAtOnce, present);
            if (present > 1 + MaxWaiting)
            {
                await RefuseAsync(context, 429, "Too many concurrent requests");
                return;
            }

            await _turn.WaitAsync(gone.Token);
            try
            {
                await Task.Delay(Delay, gone.Token);
                if (Fault is not UpstreamFault.None && context.Request.Path.StartsWithSegments(FailingPath.TrimEnd('/')) && Failures > 0)
                {
                    Failures--;
                    await FailAsync(context, gone.Token);
                    return;
                }

                await next(context);
            }
            finally
            {
                _turn.Release();
            }
        }
        catch (OperationCanceledException) when (gone.IsCancellationRequested)
        {
            context.Abort();
        }
        finally
        {
            Interlocked.Decrement(ref _present);
        }
    }

    private Task FailAsync(HttpContext context, CancellationToken gone) => Fault switch
    {
        UpstreamFault.MinutelyLimit => RefuseAsync(context, 429, "Minutely API request limit exceeded. Please try again in one minute."),
        UpstreamFault.HourlyLimit => RefuseAsync(context, 429, "Hourly API request limit exceeded. Please try again in the next hour."),
        UpstreamFault.DailyLimit => RefuseAsync(context, 429, "Daily API request limit exceeded. Please try again tomorrow."),
        UpstreamFault.Overloaded => RefuseAsync(context, 503, "The service is overloaded"),
        UpstreamFault.BadRequest => RefuseAsync(context, 400, "Invalid request"),
        UpstreamFault.EmptyJson => WriteAsync(context, "{\"generationtime_ms\":0.1,\"results\":[{\"id\":1}],\"current\":{}}"),
        UpstreamFault.AbsurdJson => WriteAsync(
            context,
            "{\"results\":[{\"name\":\"Nowhere\",\"latitude\":1e999}],\"utc_offset_seconds\":-2147483648,"
            + "\"current\":{\"time\":\"9999-12-31T23:45\",\"interval\":2147483647,\"temperature_2m\":20}}"),
        UpstreamFault.BrokenJson => WriteAsync(
            context,
            "{\"latitude\":52.52,\"longitude\":13.419,\"current\":{\"time\":\"2026-10-01T15:00\","
            + "\"temperUnexpected error while streaming data: timeoutReached"),
        UpstreamFault.Trickle => TrickleAsync(context, gone),
        _ => Task.Delay(Timeout.Infinite, gone),
    };

    private static async Task TrickleAsync(HttpContext context, CancellationToken gone)
    {
        context.Response.ContentType = "application/json";
        for (var count = 0; count < 10_000; count++)
        {
            await context.Response.WriteAsync(count == 0 ? "{" : " ", gone);
            await Task.Delay(50, gone);
        }
    }

    private static async Task SearchAsync(HttpContext context)
    {
        var start = TimeProvider.System.GetTimestamp();
        var query = context.Request.Query;
        var count = query.TryGetValue("count", out var given) && int.TryParse(given, CultureInfo.InvariantCulture, out var number)
            ? number
            : 10;
        if (count is < 1 or > 100)
        {
            await RefuseAsync(context, 400, "Parameter count must be between 1 and 100.");
            return;
        }

        var found = City.Find(query["name"].ToString()).Take(count).ToArray();
        await WriteAsync(context, json =>
        {
            // Empty and zero values are not written.
            if (found.Length > 0)
            {
                json.WriteStartArray("results");
                foreach (var city in found)
                {
                    json.WriteStartObject();
                    WriteNumber(json, "id", city.Id);
                    WriteText(json, "name", city.Names[0]);
                    WriteNumber(json, "latitude", city.Latitude);
                    WriteNumber(json, "longitude", city.Longitude);
                    WriteNumber(json, "elevation", city.Elevation);
                    json.WriteString("feature_code", "PPL");
                    WriteText(json, "country_code", city.CountryCode);
                    WriteText(json, "timezone", city.TimeZone);
                    WriteNumber(json, "population", city.Population);
                    WriteText(json, "country", city.Country);
                    json.WriteEndObject();
                }

                json.WriteEndArray();
            }

            json.WriteNumber("generationtime_ms", TimeProvider.System.GetElapsedTime(start).TotalMilliseconds);
        });
    }

    private async Task ForecastAsync(HttpContext context)
    {
        var start = TimeProvider.System.GetTimestamp();
        var query = context.Request.Query;
        if (!double.TryParse(query["latitude"], CultureInfo.InvariantCulture, out var latitude)
            || !double.TryParse(query["longitude"], CultureInfo.InvariantCulture, out var longitude))
        {
            await RefuseAsync(context, 400, "Parameter 'latitude' and 'longitude' must have the same number of elements");
            return;
        }

        if (Math.Abs(latitude) > 90)
        {
            await RefuseAsync(
                context,
                400,
                string.Create(CultureInfo.InvariantCulture, $"Latitude must be in range of -90 to 90°. Given: {latitude:0.0##}."));
            return;
        }

        if (Math.Abs(longitude) > 180)
        {
            await RefuseAsync(
                context,
                400,
                string.Create(CultureInfo.InvariantCulture, $"Longitude must be in range of -180 to 180°. Given: {longitude:0.0##}."));
            return;
        }

        var variables = query["current"].ToString().Split(',', StringSplitOptions.RemoveEmptyEntries);
        if (variables.FirstOrDefault(variable => !Units.ContainsKey(variable)) is { } unknown)
        {
            await RefuseAsync(context, 400, $"Cannot initialize WeatherVariable from invalid String value {unknown} for key current");
            return;
        }

        var slot = _time.GetUtcNow().ToUnixTimeSeconds() / Interval;
        var local = DateTimeOffset.FromUnixTimeSeconds(slot * Interval) + UtcOffset;
        await WriteAsync(context, json =>
        {
            // The coordinates are those of a cell of the model's grid, not the requested ones.
            json.WriteNumber("latitude", (float)(Math.Round(latitude * 10) / 10));
            json.WriteNumber("longitude", (float)(Math.Round(longitude * 10) / 10));
            json.WriteNumber("generationtime_ms", TimeProvider.System.GetElapsedTime(start).TotalMilliseconds);
            json.WriteNumber("utc_offset_seconds", ReportsOffset ? (int)UtcOffset.TotalSeconds : 0);
            json.WriteString("timezone", "GMT");
            json.WriteString("timezone_abbreviation", UtcOffset == TimeSpan.Zero ? "GMT" : $"GMT{UtcOffset.TotalHours:+0;-0}");
            json.WriteNumber("elevation", 38.0);
            if (variables.Length > 0)
            {
                json.WriteStartObject("current_units");
                json.WriteString("time", "iso8601");
                json.WriteString("interval", "seconds");
                foreach (var variable in variables)
                {
                    json.WriteString(variable, Units[variable]);
                }

                json.WriteEndObject();
                json.WriteStartObject("current");
                json.WriteString("time", local.ToString("yyyy-MM-dd'T'HH:mm", CultureInfo.InvariantCulture));
                json.WriteNumber("interval", Interval);
                foreach (var variable in variables)
                {
                    var value = Values.TryGetValue(variable, out var given) ? given : MadeUp(variable, latitude, longitude, slot);
                    if (value is null)
                    {
                        json.WriteNull(variable);
                    }
                    else if (double.IsInfinity(value.Value))
                    {
                        json.WritePropertyName(variable);
                        json.WriteRawValue("1e999");
                    }
                    else
                    {
                        json.WriteNumber(variable, value.Value);
                    }
                }

                json.WriteEndObject();
            }
        });
    }

    /// <summary>An invented value: warmer towards the equator and in the afternoon, and a little different in every slot.</summary>
    private static double MadeUp(string variable, double latitude, double longitude, long slot)
    {
        var hour = (slot * Interval / 3600.0 + longitude / 15) % 24;
        var noise = (slot * 7919 + (long)(latitude * 100) * 31 + (long)(longitude * 100)) % 97 / 97.0;
        var temperature = Math.Round(28 - Math.Abs(latitude) * 0.45 + 5 * Math.Cos((hour - 15) / 12 * Math.PI) + 2 * noise, 1);
        return variable switch
        {
            "temperature_2m" => temperature,
            "apparent_temperature" => Math.Round(temperature - 1.5 * noise, 1),
            "relative_humidity_2m" => Math.Round(45 + 40 * Math.Abs(noise)),
            "is_day" => hour is > 6 and < 20 ? 1 : 0,
            "weather_code" => (new[] { 0, 1, 2, 3, 45, 61, 80 })[(int)(Math.Abs(noise) * 7) % 7],
            "wind_speed_10m" => Math.Round(4 + 16 * Math.Abs(noise), 1),
            "wind_direction_10m" => Math.Round(359 * Math.Abs(noise)),
            _ => 0,
        };
    }

    private static Task RefuseAsync(HttpContext context, int status, string reason)
    {
        context.Response.StatusCode = status;
        return WriteAsync(context, json =>
        {
            json.WriteBoolean("error", true);
            json.WriteString("reason", reason);
        });
    }

    private static Task WriteAsync(HttpContext context, Action<Utf8JsonWriter> write)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(
            buffer, new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            write(json);
            json.WriteEndObject();
        }

        return WriteAsync(context, Encoding.UTF8.GetString(buffer.WrittenSpan));
    }

    private static Task WriteAsync(HttpContext context, string body)
    {
        context.Response.ContentType = "application/json; charset=utf-8";
        return context.Response.WriteAsync(body);
    }

    private static void WriteText(Utf8JsonWriter json, string name, string value)
    {
        if (value.Length > 0)
        {
            json.WriteString(name, value);
        }
    }

    private static void WriteNumber(Utf8JsonWriter json, string name, double value)
    {
        if (value != 0)
        {
            json.WriteNumber(name, value);
        }
    }
}
