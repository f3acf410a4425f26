using System.Collections.Concurrent;
using System.Diagnostics.Metrics;

namespace CachingApi.Caching;

/// <summary>
/// The metrics of write-behind. The gauges are of the queue, which all processes share; each process reports its last reading.
/// </summary>
internal sealed class WriteBehindMetrics
{
    private readonly Counter<long> _writes;
    private readonly Counter<long> _fallbacks;

    public WriteBehindMetrics(IMeterFactory meters)
    {
        var meter = meters.Create("CachingApi.WriteBehind");
        _writes = meter.CreateCounter<long>("write_behind.writes", description: "Writes taken from the queue by outcome.");
        _fallbacks = meter.CreateCounter<long>(
            "write_behind.fallbacks", description: "Writes that were synchronous although write-behind was requested, by reason.");
        Gauge("write_behind.queue_length", null, "Queued writes that are not persisted yet.", seen => seen.Length);
        Gauge("write_behind.lag", "s", "How long the oldest queued write has waited.", seen => seen.Lag.TotalSeconds);
        Gauge(
            "write_behind.dead_letters", null, "Writes that could not be persisted and wait for an administrator.",
            seen => seen.DeadLetters);

        void Gauge(string name, string? unit, string description, Func<QueueState, double> value) => meter.CreateObservableGauge(
            name,
            () => Seen.Select(seen => new Measurement<double>(value(seen.Value), new KeyValuePair<string, object?>("cache", seen.Key))),
            unit,
            description);
    }

    /// <summary>The queue of each cache, as it was seen last.</summary>
    public ConcurrentDictionary<string, QueueState> Seen { get; } = new();

    /// <param name="outcome"><c>persisted</c>, <c>folded</c> into a later write of the same entity, <c>retried</c> or <c>dead</c>.</param>
    public void Writes(string cache, string outcome, int count)
    {
        if (count > 0)
        {
            _writes.Add(count, new("cache", cache), new("outcome", outcome));
        }
    }

    /// <param name="reason">
    /// <c>full</c>: the queue is full; <c>contended</c>: a synchronous write of the entity is under way; <c>refused</c>: Redis might lose
    /// the queue.
    /// </param>
    public void FellBack(string cache, string reason) => _fallbacks.Add(1, new("cache", cache), new("reason", reason));
}

/// <param name="Lag">How long the oldest write has waited.</param>
internal sealed record QueueState(long Length, TimeSpan Lag, long DeadLetters);
