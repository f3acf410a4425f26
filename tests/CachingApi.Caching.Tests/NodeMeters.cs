using System.Diagnostics.Metrics;
using System.Globalization;

namespace CachingApi.Caching.Tests;

/// <summary>Adds up the measurements of one node's instruments. A listener receives those of the whole process.</summary>
internal sealed class NodeMeters : IDisposable
{
    private readonly MeterListener _listener = new();
    private readonly List<Measured> _instruments = [];
    private readonly Lock _lock = new();

    public NodeMeters(IMeterFactory own)
    {
        _listener.InstrumentPublished = (instrument, listener) =>
        {
            if (instrument.Meter.Scope != own)
            {
                return;
            }

            var measured = new Measured(instrument);
            lock (_lock)
            {
                _instruments.Add(measured);
            }

            listener.EnableMeasurementEvents(instrument, measured);
        };
        _listener.SetMeasurementEventCallback<int>((_, value, labels, measured) => ((Measured)measured!).Add(value, labels));
        _listener.SetMeasurementEventCallback<long>((_, value, labels, measured) => ((Measured)measured!).Add(value, labels));
        _listener.SetMeasurementEventCallback<double>((_, value, labels, measured) => ((Measured)measured!).Add(value, labels));
        _listener.Start();
    }

    public double Sum(string instrument, (string Label, string Value)[] labels) => Look(instrument, labels).Sum(series => series.Value);

    public int Recorded(string histogram, double atMost, (string Label, string Value)[] labels) =>
        Look(histogram, labels).Sum(series => series.Recorded!.Count(value => value <= atMost));

    public string[] Samples()
    {
        lock (_lock)
        {
            Observe();
            return [.. from measured in _instruments from series in measured.Snapshot() select series.Text(measured.Name)];
        }
    }

    public void Dispose() => _listener.Dispose();

    private Series[] Look(string instrument, (string Label, string Value)[] labels)
    {
        lock (_lock)
        {
            Observe();
            var measured = _instruments.Where(measured => measured.Name == instrument).ToArray();
            Assert.True(measured.Length > 0, $"The instrument {instrument} does not exist.");
            return [.. measured.SelectMany(measured => measured.Snapshot()).Where(series => labels.All(series.Has))];
        }
    }

    /// <summary>Reads the observable instruments.</summary>
    private void Observe()
    {
        foreach (var measured in _instruments)
        {
            measured.ForgetObserved();
        }

        _listener.RecordObservableInstruments();
    }

    /// <summary>One instrument. Adding to an existing series allocates nothing, because tests measure the engine's allocations.</summary>
    private sealed class Measured(Instrument instrument)
    {
        private readonly List<Series> _series = [];
        private readonly Lock _lock = new();

        public string Name => instrument.Name;

        public void Add(double value, ReadOnlySpan<KeyValuePair<string, object?>> labels)
        {
            lock (_lock)
            {
                Of(labels).Add(value);
            }
        }

        public void ForgetObserved()
        {
            lock (_lock)
            {
                if (instrument.IsObservable)
                {
                    _series.Clear();
                }
            }
        }

        public Series[] Snapshot()
        {
            lock (_lock)
            {
                return [.. _series.Select(series => series.Copy())];
            }
        }

        private Series Of(ReadOnlySpan<KeyValuePair<string, object?>> labels)
        {
            foreach (var series in _series)
            {
                if (series.Is(labels))
                {
                    return series;
                }
            }

            var added = new Series(labels.ToArray(), instrument is Histogram<double> ? [] : null);
            _series.Add(added);
            return added;
        }
    }

    /// <param name="Recorded">The recorded values, for a histogram.</param>
    private sealed record Series(KeyValuePair<string, object?>[] Labels, List<double>? Recorded)
    {
        private double _sum;

        public double Value => Recorded?.Count ?? _sum;

        public void Add(double value)
        {
            _sum += value;
            Recorded?.Add(value);
        }

        public Series Copy() => this with { Recorded = Recorded is null ? null : [.. Recorded] };

        public bool Has((string Label, string Value) label) => Labels.Contains(new(label.Label, label.Value));

        public bool Is(ReadOnlySpan<KeyValuePair<string, object?>> labels)
        {
            if (labels.Length != Labels.Length)
            {
                return false;
            }

            for (var label = 0; label < labels.Length; label++)
            {
                if (labels[label].Key != Labels[label].Key || !Equals(labels[label].Value, Labels[label].Value))
                {
                    return false;
                }
            }

            return true;
        }

        public string Text(string instrument)
        {
            var labels = Labels.OrderBy(label => label.Key, StringComparer.Ordinal).Select(label => $"{label.Key}=\"{label.Value}\"");
            return string.Create(CultureInfo.InvariantCulture, $"{instrument}{{{string.Join(',', labels)}}} {Value}");
        }
    }
}
