using System.Collections.Concurrent;
using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;

namespace CachingApi.Caching.Tests;

/// <summary>The eviction policy of the memory tier.</summary>
public sealed class S3FifoCacheTests
{
    private const int Entities = 100_000;
    private const int Reads = 600_000;

    [Theory]
    [InlineData(0.8, false)]
    [InlineData(1.0, false)]
    [InlineData(0.9, true)]
    public void Its_hit_ratio_is_within_a_point_of_w_tinylfu(double skew, bool withScans)
    {
        const int Capacity = 10_000;
        var lfu = new ConcurrentLfu<string, int>(1, Capacity, new ForegroundScheduler(), StringComparer.Ordinal);
        var ours = new S3FifoCache<int>(Capacity, (_, _) => { });
        var (lfuHits, ourHits) = (0, 0);
        foreach (var key in Trace(skew, withScans))
        {
            if (lfu.TryGet(key, out _))
            {
                lfuHits++;
            }
            else
            {
                lfu.AddOrUpdate(key, 0);
            }

            if (ours.TryGet(key, out _))
            {
                ourHits++;
            }
            else
            {
                ours.Set(key, 0);
            }
        }

        Assert.True(ourHits >= lfuHits - (Reads / 100), $"{ourHits} hits beside {lfuHits}, of {Reads} reads");
    }

    [Fact]
    public void A_scan_does_not_displace_popular_entries()
    {
        var cache = new S3FifoCache<int>(100, (_, _) => { });
        foreach (var key in Enumerable.Range(0, 80).Select(id => $"hot {id}"))
        {
            cache.Set(key, 0);
            Assert.True(cache.TryGet(key, out _) && cache.TryGet(key, out _));
        }

        for (var id = 0; id < 10_000; id++)
        {
            cache.Set($"scanned {id}", 0);
        }

        Assert.Equal(80, Enumerable.Range(0, 80).Count(id => cache.TryGet($"hot {id}", out _)));
    }

    [Fact]
    public void An_evicted_entry_that_returns_soon_stays_longer_than_a_new_one()
    {
        // Hashes differ in each round: the entry that is evicted for the one that returns may have its place in the ghost table.
        for (var round = 0; round < 1_000; round++)
        {
            var cache = new S3FifoCache<int>(100, (_, _) => { });
            foreach (var id in Enumerable.Range(0, 101))
            {
                cache.Set($"{round}:{id}", 0);
            }

            Assert.False(cache.TryGet($"{round}:0", out _));
            cache.Set($"{round}:0", 1);
            for (var id = 0; id < 1_000; id++)
            {
                cache.Set($"scanned {id}", 0);
            }

            Assert.True(cache.TryGet($"{round}:0", out var value));
            Assert.Equal(1, value);
            Assert.False(cache.TryGet($"{round}:50", out _));
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(10)]
    public void It_is_bounded_whatever_its_capacity(int capacity)
    {
        var evicted = 0;
        var cache = new S3FifoCache<int>(capacity, (_, isEvicted) => evicted += isEvicted ? 1 : 0);
        for (var id = 0; id < 100; id++)
        {
            cache.Set($"{id}", id);
            Assert.True(cache.TryGet($"{id}", out var value) && value == id);
        }

        Assert.Equal(capacity, cache.Count);
        Assert.Equal(100 - capacity, evicted);
    }

    /// <summary>If every entry is read between two evictions, one of them is evicted nevertheless.</summary>
    [Fact]
    public void It_is_bounded_if_all_entries_are_read_all_the_time()
    {
        var cache = new S3FifoCache<int>(1_000, (_, _) => { });
        for (var id = 0; id < 3_000; id++)
        {
            cache.Set($"{id}", id);
            foreach (var (key, _) in cache.Entries)
            {
                cache.TryGet(key, out _);
            }

            Assert.InRange(cache.Count, 1, 1_000);
        }
    }

    [Fact]
    public async Task Each_value_that_was_set_and_is_not_there_has_left_exactly_once()
    {
        var left = new ConcurrentDictionary<int, int>();
        var cache = new S3FifoCache<int>(200, (value, _) => left.AddOrUpdate(value, 1, (_, times) => times + 1));
        var set = 0;
        await Task.WhenAll(Enumerable.Range(0, 4).Select(seed => Task.Run(() =>
        {
            var random = new Random(seed);
            for (var round = 0; round < 50_000; round++)
            {
                var key = $"{random.Next(600)}";
                switch (random.Next(10))
                {
                    case 0:
                        cache.Remove(key);
                        break;
                    case < 4:
                        cache.Set(key, Interlocked.Increment(ref set));
                        break;
                    default:
                        cache.TryGet(key, out _);
                        break;
                }
            }
        })));

        var there = cache.Entries.Select(entry => entry.Value).ToArray();
        Assert.Equal(cache.Count, there.Length);
        Assert.InRange(there.Length, 1, 200);
        Assert.All(left, value => Assert.Equal(1, value.Value));
        Assert.Equal(set, there.Length + left.Count);
        Assert.Empty(there.Intersect(left.Keys));
    }

    /// <summary>All keys are in few chains, so readers meet the changes of other keys.</summary>
    [Fact]
    public async Task A_key_that_stays_is_always_found_while_others_in_its_chain_come_and_go()
    {
        const int Stay = 4;
        var cache = new S3FifoCache<int>(16, (_, _) => { });
        var (keys, missed, stop) = (Enumerable.Range(0, 12).Select(id => $"{id}").ToArray(), 0, false);
        Array.ForEach(keys, key => cache.Set(key, 0));
        var readers = Enumerable.Range(0, 2).Select(_ => Task.Run(() =>
        {
            while (!Volatile.Read(ref stop))
            {
                foreach (var key in keys.AsSpan(0, Stay))
                {
                    missed += cache.TryGet(key, out var value) && value >= 0 ? 0 : 1;
                }
            }
        })).ToArray();

        var random = new Random(1);
        for (var round = 0; round < 300_000; round++)
        {
            // A key that stays gets other values; the others come and go.
            var id = random.Next(keys.Length);
            if (id < Stay || random.Next(2) == 0)
            {
                cache.Set(keys[id], round);
            }
            else
            {
                cache.Remove(keys[id]);
            }
        }

        Volatile.Write(ref stop, true);
        await Task.WhenAll(readers);
        Assert.Equal(0, missed);
        Assert.Equal(cache.Count, cache.Entries.Count());
    }

    /// <summary>Reads of entities with the popularity of a Zipf distribution; with scans of entities that are read once.</summary>
    private static IEnumerable<string> Trace(double skew, bool withScans)
    {
        var random = new Random(1);
        var shares = new double[Entities];
        var sum = 0.0;
        for (var rank = 0; rank < Entities; rank++)
        {
            shares[rank] = sum += Math.Pow(rank + 1, -skew);
        }

        for (int read = 0, scanned = 0; read < Reads; read++)
        {
            if (withScans && read % 50_000 < 15_000)
            {
                yield return $"scanned {scanned++}";
                continue;
            }

            var found = Array.BinarySearch(shares, random.NextDouble() * sum);
            yield return $"{(found < 0 ? ~found : found)}";
        }
    }
}
