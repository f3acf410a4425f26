using System.Runtime.InteropServices;

namespace CachingApi.Caching.Operations;

/// <summary>A key that is read often, in this process.</summary>
/// <param name="PerSecond">The estimated number of reads per second in the last 30 to 60 seconds.</param>
public readonly record struct HotKey(string Id, double PerSecond);

/// <summary>
/// Estimates which keys of a cache are read most, with 100 counters (Space-Saving: Metwally, Agrawal and El Abbadi, ICDT 2005). Of the
/// reads that memory serves, a sample is counted.
/// </summary>
internal sealed class HotKeys
{
    private const int Counters = 100;

    /// <summary>
    /// The most hits that one sampled hit stands for, so that one hit after a long pause does not get all hits before it.
    /// </summary>
    private const long MaxHitsPerSample = 1024;

    private static readonly TimeSpan Window = TimeSpan.FromSeconds(30);

    private readonly Lock _lock = new();
    private Dictionary<string, long> _counts = [];
    private Dictionary<string, long> _before = [];
    private DateTimeOffset _since;
    private DateTimeOffset _beforeSince;
    private long _hits;

    /// <summary>Counts one read that memory did not serve.</summary>
    public void CountMiss(string id, DateTimeOffset now) => Count(id, hits: null, now);

    /// <summary>Counts a sampled read that memory served. It stands for all hits since the last sampled one.</summary>
    /// <param name="hits">The number of hits of the cache so far.</param>
    public void CountSampledHit(string id, long hits, DateTimeOffset now) => Count(id, hits, now);

    /// <remarks>If another thread is counting at this instant, the read is left out.</remarks>
    private void Count(string id, long? hits, DateTimeOffset now)
    {
        if (!_lock.TryEnter())
        {
            return;
        }

        try
        {
            var reads = 1L;
            if (hits is { } total)
            {
                reads = Math.Clamp(total - _hits, 1, MaxHitsPerSample);
                _hits = total;
            }

            Turn(now);
            if (_counts.Count == Counters && !_counts.ContainsKey(id))
            {
                // The rarest key loses its counter to the new one, so a counter is at most too high by the count of a rare key.
                var (rarest, count) = _counts.MinBy(counter => counter.Value);
                _counts.Remove(rarest);
                _counts[id] = count;
            }

            CollectionsMarshal.GetValueRefOrAddDefault(_counts, id, out _) += reads;
        }
        finally
        {
            _lock.Exit();
        }
    }

    /// <summary>The keys that were read most, the most read one first.</summary>
    public IReadOnlyList<HotKey> Top(int count, DateTimeOffset now)
    {
        lock (_lock)
        {
            Turn(now);
            var seconds = Math.Max(1, (now - _beforeSince).TotalSeconds);
            return
            [
                .. _counts.Concat(_before)
                    .GroupBy(counter => counter.Key, counter => counter.Value)
                    .Select(key => new HotKey(key.Key, key.Sum() / seconds))
                    .OrderByDescending(key => key.PerSecond)
                    .ThenBy(key => key.Id, StringComparer.Ordinal)
                    .Take(count),
            ];
        }
    }

    /// <summary>Begins a new window when the current one is full, and forgets the one before.</summary>
    private void Turn(DateTimeOffset now)
    {
        if (now - _since < Window)
        {
            return;
        }

        var isAdjacent = now - _since < 2 * Window;
        (_before, _beforeSince) = isAdjacent ? (_counts, _since) : ([], now);
        (_counts, _since) = ([], now);
    }
}
