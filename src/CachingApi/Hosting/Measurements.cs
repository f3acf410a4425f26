using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Globalization;

namespace CachingApi.Hosting;

/// <summary>How long something took: seconds, within a tenth; <c>null</c> where nothing was measured.</summary>
internal readonly record struct Quantiles(long Count, double? P50, double? P99);

/// <summary>One number of one instrument: a counter's sum, a gauge's value or a histogram's count.</summary>
/// <param name="Name">The instrument's name as Prometheus writes it, without unit and <c>_total</c>, such as <c>cache_requests</c>.</param>
/// <param name="Total">Of a histogram, since the process began.</param>
/// <param name="Recent">Of a histogram, within <see cref="Measurements.Window"/>.</param>
internal sealed record Sample(string Name, IReadOnlyDictionary<string, string> Labels, double Value, Quantiles Total = default, Quantiles Recent = default);

/// <summary>
/// What this service's meters have measured since the process began, for those who look without a Prometheus. It listens to the
/// same instruments as <c>/metrics</c> does, so there is one truth.
/// </summary>
internal sealed class Measurements : IDisposable
{
    private const int SlotSeconds = 5, Slots = 12;

    /// <summary>What counts as recent: a minute, to the last five seconds.</summary>
    public static readonly TimeSpan Window = TimeSpan.FromSeconds(SlotSeconds * Slots);

    private readonly MeterListener _listener = new();
    private readonly ConcurrentBag<Measured> _instruments = [];
    private readonly Lock _reading = new();

    public Measurements(IMeterFactory meters, TimeProvider time)
    {
        Since = time.GetUtcNow();
        var start = time.GetTimestamp();
        long Slot() => (long)time.GetElapsedTime(start).TotalSeconds / SlotSeconds;

        // Meters are heard by the whole process, which tests have several services in.
        _listener.InstrumentPublished = (instrument, listener) =>
        {
            if (instrument.Meter.Scope == meters && instrument.Meter.Name.StartsWith("CachingApi.", StringComparison.Ordinal))
            {
                var measured = new Measured(instrument, Slot);
                _instruments.Add(measured);
                listener.EnableMeasurementEvents(instrument, measured);
            }
        };
        _listener.SetMeasurementEventCallback<long>(static (_, value, tags, measured) => ((Measured)measured!).Add(value, tags));
        _listener.SetMeasurementEventCallback<int>(static (_, value, tags, measured) => ((Measured)measured!).Add(value, tags));
        _listener.SetMeasurementEventCallback<double>(static (_, value, tags, measured) => ((Measured)measured!).Add(value, tags));
        _listener.Start();
    }

    /// <summary>From when on it has listened: since the process began.</summary>
    public DateTimeOffset Since { get; }

    public Sample[] Read()
    {
        lock (_reading)
        {
            foreach (var instrument in _instruments)
            {
                instrument.BeginReading();
            }

            _listener.RecordObservableInstruments();
            return [.. _instruments.SelectMany(instrument => instrument.Samples())];
        }
    }

    public void Dispose() => _listener.Dispose();

    private sealed class Measured(Instrument instrument, Func<long> slot)
    {
        private readonly ConcurrentDictionary<Values, Series> _series = new();
        private readonly bool _isHistogram = instrument is Histogram<double>;

        public void Add(double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
        {
            var values = new Values(Value(tags, 0), Value(tags, 1), Value(tags, 2), Value(tags, 3));
            if (!_series.TryGetValue(values, out var series))
            {
                series = _series.GetOrAdd(values, new Series(Labels(tags), _isHistogram ? new Distribution() : null));
            }

            if (series.Distribution is { } distribution)
            {
                distribution.Add(value, slot());
            }
            else
            {
                series.Add(value);
            }
        }

        /// <summary>What is observed is told anew each time, with what went before in it.</summary>
        public void BeginReading()
        {
            if (instrument.IsObservable)
            {
                _series.Clear();
            }
        }

        public IEnumerable<Sample> Samples()
        {
            var name = instrument.Name.Replace('.', '_');
            foreach (var series in _series.Values)
            {
                var (total, recent) = series.Distribution?.Read(slot()) ?? default;
                yield return new(name, series.Labels, series.Distribution is null ? series.Sum : total.Count, total, recent);
            }
        }

        private static object? Value(ReadOnlySpan<KeyValuePair<string, object?>> tags, int index) => index < tags.Length ? tags[index].Value : null;

        private static Dictionary<string, string> Labels(ReadOnlySpan<KeyValuePair<string, object?>> tags)
        {
            var labels = new Dictionary<string, string>();
            foreach (var (name, value) in tags)
            {
                labels[name] = Convert.ToString(value, CultureInfo.InvariantCulture) ?? "";
            }

            return labels;
        }

        /// <summary>An instrument gives its labels in the same order each time, four at most.</summary>
        private readonly record struct Values(object? First, object? Second, object? Third, object? Fourth);
    }

    private sealed class Series(Dictionary<string, string> labels, Distribution? distribution)
    {
        private double _sum;

        public Dictionary<string, string> Labels => labels;

        public Distribution? Distribution => distribution;

        public double Sum => Volatile.Read(ref _sum);

        public void Add(double value)
        {
            for (var held = Sum; ;)
            {
                var seen = Interlocked.CompareExchange(ref _sum, held + value, held);
                if (seen.Equals(held))
                {
                    return;
                }

                held = seen;
            }
        }
    }

    /// <summary>Times in buckets that grow by a fifth each, from a microsecond to some minutes: since the beginning, and for each slot of the window.</summary>
    private sealed class Distribution
    {
        private const double Smallest = 1e-6;
        private const int BucketsPerDoubling = 4, Buckets = 28 * BucketsPerDoubling;

        private readonly long[] _total = new long[Buckets];
        private readonly Slot[] _slots = [.. Enumerable.Range(0, Slots + 1).Select(_ => new Slot())];

        public void Add(double seconds, long number)
        {
            var bucket = (int)Math.Clamp(Math.Log2(Math.Max(seconds, Smallest) / Smallest) * BucketsPerDoubling, 0, Buckets - 1);
            Interlocked.Increment(ref _total[bucket]);
            Interlocked.Increment(ref _slots[number % _slots.Length].At(number)[bucket]);
        }

        public (Quantiles Total, Quantiles Recent) Read(long number)
        {
            var recent = new long[Buckets];
            foreach (var slot in _slots.Where(slot => slot.Number > number - Slots))
            {
                for (var bucket = 0; bucket < Buckets; bucket++)
                {
                    recent[bucket] += Volatile.Read(ref slot.Counts[bucket]);
                }
            }

            return (Of(_total), Of(recent));
        }

        private static Quantiles Of(long[] counts)
        {
            var count = counts.Sum();
            return new(count, At(counts, count * 0.5), At(counts, count * 0.99));
        }

        /// <summary>The middle of the bucket that so many are below or in.</summary>
        private static double? At(long[] counts, double rank)
        {
            var below = 0L;
            for (var bucket = 0; bucket < Buckets; bucket++)
            {
                below += counts[bucket];
                if (below > 0 && below >= rank)
                {
                    return Smallest * Math.Pow(2, (bucket + 0.5) / BucketsPerDoubling);
                }
            }

            return null;
        }

        private sealed class Slot
        {
            private long _number = -1;

            public long Number => Volatile.Read(ref _number);

            public long[] Counts { get; } = new long[Buckets];

            /// <summary>The counts of this slot, empty where they were those of an earlier turn.</summary>
            public long[] At(long number)
            {
                if (Number != number)
                {
                    lock (Counts)
                    {
                        if (Number != number)
                        {
                            Array.Clear(Counts);
                            Volatile.Write(ref _number, number);
                        }
                    }
                }

                return Counts;
            }
        }
    }
}
