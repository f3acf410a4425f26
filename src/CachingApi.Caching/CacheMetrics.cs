using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>The metrics of the caches: names and label values.</summary>
internal sealed class CacheMetrics
{
    public const string MeterName = "CachingApi.Caching";

    /// <summary>One look-up in memory out of this many is timed, because timing costs as much as the look-up itself.</summary>
    private const int LookUpsPerTimed = 128;

    [ThreadStatic]
    private static int _lookUps;

    private readonly ConcurrentDictionary<(string Cache, string Tier, string Result), StripedCounter> _requests = new();
    private readonly Counter<long> _loads;
    private readonly Counter<long> _coalesced;
    private readonly Counter<long> _refusedFills;
    private readonly Counter<long> _oversized;
    private readonly Histogram<double> _loadDuration;
    private readonly Histogram<double> _operationDuration;
    private readonly Histogram<double> _staleness;
    private readonly Counter<long> _inconsistencies;

    public CacheMetrics(IMeterFactory meters, CircuitBreaker circuit)
    {
        var meter = meters.Create(MeterName);
        meter.CreateObservableCounter("cache.requests", Requests, description: "Look-ups of clients by cache, tier and result.");
        _loads = meter.CreateCounter<long>("cache.loads", description: "Loads from the source by cache and outcome.");
        _coalesced = meter.CreateCounter<long>("cache.coalesced", description: "Callers that shared another caller's load.");
        _refusedFills = meter.CreateCounter<long>(
            "cache.refused_fills", description: "Loaded values that were not cached because a newer version was known.");
        _oversized = meter.CreateCounter<long>(
            "cache.oversized", description: "Entries not cached because they are larger than Cache:MaxEntryBytes.");
        _loadDuration = meter.CreateHistogram<double>(
            "cache.load.duration", "s", "Time of a load from the source.", advice: new() { HistogramBucketBoundaries = Buckets });
        _operationDuration = meter.CreateHistogram<double>(
            "cache.operation.duration",
            "s",
            "Time of one operation on a tier; of look-ups in memory, one in 128 is timed.",
            advice: new() { HistogramBucketBoundaries = [0.000001, 0.00001, .. Buckets] });
        _staleness = meter.CreateHistogram<double>(
            "cache.staleness",
            "s",
            "How long a tier was seen to differ from the source; 0 for a key that agrees.",
            advice: new()
            {
                HistogramBucketBoundaries = [0, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
            });
        _inconsistencies = meter.CreateCounter<long>(
            "cache.inconsistencies", description: "Entries that still differed from an unchanged source after the promised bound.");
        meter.CreateObservableGauge("cache.circuit_open", () => circuit.IsOpen ? 1 : 0, description: "1 while Redis is not used.");
    }

    private static double[] Buckets { get; } =
        [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

    public void Request(string cache, string tier, string result) => RequestCounter(cache, tier, result).Increment();

    /// <summary>The counter of look-ups with a result, for a caller that counts too often to look it up each time.</summary>
    public StripedCounter RequestCounter(string cache, string tier, string result) =>
        _requests.GetOrAdd((cache, tier, result), static _ => new());

    private IEnumerable<Measurement<long>> Requests() => _requests
        .Where(counted => counted.Value.Value > 0)
        .Select(counted => new Measurement<long>(
            counted.Value.Value,
            new("cache", counted.Key.Cache),
            new("tier", counted.Key.Tier),
            new KeyValuePair<string, object?>("result", counted.Key.Result)));

    public void Load(string cache, string outcome, TimeSpan duration)
    {
        _loads.Add(1, new("cache", cache), new("outcome", outcome));
        _loadDuration.Record(duration.TotalSeconds, new KeyValuePair<string, object?>("cache", cache));
    }

    public void Coalesced(string cache) => _coalesced.Add(1, new KeyValuePair<string, object?>("cache", cache));

    public void Oversized(string cache) => _oversized.Add(1, new KeyValuePair<string, object?>("cache", cache));

    public void RefusedFill(string cache) => _refusedFills.Add(1, new KeyValuePair<string, object?>("cache", cache));

    /// <summary>Records for how long a tier was seen to differ from the source.</summary>
    public void Staleness(string cache, string tier, TimeSpan lasted) =>
        _staleness.Record(lasted.TotalSeconds, new("cache", cache), new("tier", tier));

    public void Inconsistent(string cache, string tier) => _inconsistencies.Add(1, new("cache", cache), new("tier", tier));

    /// <summary>Reports 0 for a cache that is compared, because Prometheus sees no increase in a counter whose first sample is 1.</summary>
    public void WatchInconsistencies(string cache)
    {
        foreach (var tier in new[] { "memory", "redis" })
        {
            _inconsistencies.Add(0, new("cache", cache), new("tier", tier));
        }
    }

    /// <summary>Whether this look-up in memory is one of those that are timed.</summary>
    public static bool IsTimed() => ++_lookUps % LookUpsPerTimed == 0;

    public void Operation(string tier, string operation, TimeSpan duration) =>
        _operationDuration.Record(duration.TotalSeconds, new("tier", tier), new("operation", operation));
}
