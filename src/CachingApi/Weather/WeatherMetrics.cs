using System.Diagnostics.Metrics;

namespace CachingApi.Weather;

/// <summary>
/// Counts each attempt to call the upstream, by api (search, forecast) and outcome (answered, limited, refused, failed, broken, timeout,
/// unreachable).
/// </summary>
internal sealed class WeatherMetrics
{
    public const string MeterName = "CachingApi.Weather";

    private readonly Counter<long> _calls;
    private readonly Histogram<double> _duration;

    public WeatherMetrics(IMeterFactory meters)
    {
        var meter = meters.Create(MeterName);
        _calls = meter.CreateCounter<long>("weather.upstream.calls", description: "Calls to the weather's upstream by api and outcome.");
        _duration = meter.CreateHistogram<double>(
            "weather.upstream.call.duration",
            "s",
            "Time of a call to the weather's upstream, its body included.",
            advice: new() { HistogramBucketBoundaries = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10] });
    }

    public void Call(string api, string outcome, TimeSpan duration)
    {
        _calls.Add(1, new("api", api), new("outcome", outcome));
        _duration.Record(duration.TotalSeconds, new KeyValuePair<string, object?>("api", api));
    }
}
