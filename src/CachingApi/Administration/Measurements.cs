using System.Diagnostics.Metrics;
using System.Globalization;
using OpenTelemetry;
using OpenTelemetry.Metrics;

namespace CachingApi.Administration;

/// <summary>Durations of operations in seconds, accurate to a tenth; <c>null</c> if none was measured.</summary>
internal readonly record struct Quantiles(long Count, double? P50, double? P99);

/// <summary>One number of one instrument: the sum of a counter, the value of a gauge or the count of a histogram.</summary>
/// <param name="Name">The instrument's name in Prometheus, without unit and <c>_total</c>, such as <c>cache_requests</c>.</param>
/// <param name="Total">For a histogram: since the process began.</param>
/// <param name="Recent">For a histogram: within <see cref="Measurements.Window"/>.</param>
internal sealed record Sample(
    string Name,
    IReadOnlyDictionary<string, string> Labels,
    double Value,
    Quantiles Total = default,
    Quantiles Recent = default);

/// <summary>
/// The metrics of this process for clients without a Prometheus. Like <c>/metrics</c>, it is a reader of the OpenTelemetry SDK, but it has
/// finer buckets and keeps their counts of the last minute.
/// </summary>
internal sealed class Measurements : IDisposable
{
    /// <summary>The period that counts as recent: a minute, accurate to five seconds.</summary>
    public static readonly TimeSpan Window = TimeSpan.FromMinutes(1);

    private const int BucketsPerDoubling = 4;

    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(5);

    /// <summary>The bounds of the buckets, from a microsecond to four minutes.</summary>
    private static readonly double[] Bounds =
    [
        .. Enumerable.Range(0, 28 * BucketsPerDoubling).Select(step => 1e-6 * Math.Pow(2, (double)step / BucketsPerDoubling)),
    ];

    private readonly Lock _lock = new();
    private readonly Exporter _exporter = new();
    private readonly BaseExportingMetricReader _reader;
    private readonly MeterProvider _provider;
    private readonly TimeProvider _time;
    private readonly ITimer _timer;

    /// <summary>The bucket counts of each histogram at the end of each interval, the oldest first.</summary>
    private readonly Queue<(DateTimeOffset At, Dictionary<string, long[]> Counts)> _past = new();

    public Measurements(IMeterFactory meters, TimeProvider time)
    {
        (_time, Since, _reader) = (time, time.GetUtcNow(), new BaseExportingMetricReader(_exporter));

        // Tests have several services in one process, each with its own meters.
        _provider = Sdk.CreateMeterProviderBuilder()
            .AddMeter("CachingApi.*")
            .AddView(instrument => instrument.Meter.Scope != meters ? MetricStreamConfiguration.Drop
                : instrument is Histogram<double> ? new ExplicitBucketHistogramConfiguration { Boundaries = Bounds, RecordMinMax = false }
                : null)
            .AddReader(_reader)
            .Build();
        _timer = time.CreateTimer(_ => Keep(), null, Interval, Interval);
    }

    /// <summary>When the measurement began: at the start of the process.</summary>
    public DateTimeOffset Since { get; }

    public Sample[] Read()
    {
        lock (_lock)
        {
            _reader.Collect();
            var before = _past.LastOrDefault(past => past.At <= _time.GetUtcNow() - Window).Counts;
            return [.. _exporter.Read.Select(read => read.Counts is null ? read.Sample : read.Sample with
            {
                Total = Of(read.Counts),
                Recent = Of(
                    before?.GetValueOrDefault(read.Key) is { } then
                        ? [.. read.Counts.Zip(then, (now, past) => now - past)]
                        : read.Counts),
            })];
        }
    }

    public void Dispose()
    {
        _timer.Dispose();
        _provider.Dispose();
    }

    private void Keep()
    {
        lock (_lock)
        {
            _reader.Collect();
            _past.Enqueue((
                _time.GetUtcNow(),
                _exporter.Read.Where(read => read.Counts is not null).ToDictionary(read => read.Key, read => read.Counts!)));
            while (_past.Count > Window / Interval + 1)
            {
                _past.Dequeue();
            }
        }
    }

    private static Quantiles Of(long[] counts)
    {
        var count = counts.Sum();
        return new(count, At(counts, count * 0.5), At(counts, count * 0.99));
    }

    /// <summary>The middle of the bucket in which the cumulative count reaches the rank.</summary>
    private static double? At(long[] counts, double rank)
    {
        var below = 0L;
        for (var bucket = 0; bucket < counts.Length; bucket++)
        {
            below += counts[bucket];
            if (below > 0 && below >= rank)
            {
                return Bounds[Math.Min(bucket, Bounds.Length - 1)] * Math.Pow(2, -0.5 / BucketsPerDoubling);
            }
        }

        return null;
    }

    /// <summary>Copies the SDK's aggregates.</summary>
    private sealed class Exporter : BaseExporter<Metric>
    {
        /// <summary>The last export. Each one makes a list of its own, because the provider also exports when it ends.</summary>
        public IReadOnlyList<(string Key, Sample Sample, long[]? Counts)> Read { get; private set; } = [];

        public override ExportResult Export(in Batch<Metric> batch)
        {
            var samples = new List<(string Key, Sample Sample, long[]? Counts)>();
            foreach (var metric in batch)
            {
                foreach (ref readonly var point in metric.GetMetricPoints())
                {
                    var (name, labels) = (metric.Name.Replace('.', '_'), new Dictionary<string, string>());
                    foreach (var (label, value) in point.Tags)
                    {
                        labels[label] = Convert.ToString(value, CultureInfo.InvariantCulture) ?? "";
                    }

                    samples.Add((
                        $"{name} {string.Join(' ', labels.Values)}", new(name, labels, ValueOf(metric, point)), CountsOf(metric, point)));
                }
            }

            Read = samples;
            return ExportResult.Success;
        }

        private static double ValueOf(Metric metric, in MetricPoint point) => metric.MetricType switch
        {
            MetricType.LongSum or MetricType.LongSumNonMonotonic => point.GetSumLong(),
            MetricType.DoubleSum or MetricType.DoubleSumNonMonotonic => point.GetSumDouble(),
            MetricType.LongGauge => point.GetGaugeLastValueLong(),
            MetricType.DoubleGauge => point.GetGaugeLastValueDouble(),
            _ => point.GetHistogramCount(),
        };

        private static long[]? CountsOf(Metric metric, in MetricPoint point)
        {
            if (metric.MetricType is not MetricType.Histogram)
            {
                return null;
            }

            var counts = new List<long>(Bounds.Length + 1);
            foreach (var bucket in point.GetHistogramBuckets())
            {
                counts.Add(bucket.BucketCount);
            }

            return [.. counts];
        }
    }
}
