using System.Collections.Concurrent;
using System.Diagnostics;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Caching.Tests;

/// <summary>The consistency checker finds entries that stay wrong, in the right tier, and reports no others.</summary>
public sealed class ConsistencyCheckerTests(TestServers servers)
{
    private const int Looks = 5;

    [Theory]
    [InlineData("it", false, 1)]
    [InlineData("none", true, 1)]
    [InlineData("none", false, 0)]
    [InlineData("deleted", true, 1)]
    [InlineData("deleted", false, 0)]
    public async Task Not_found_is_compared_too(string cached, bool inSource, int inconsistencies)
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("another", 1), "2"); // the generation is known
        var thing = new Thing("it", 1);
        await (cached == "deleted"
            ? engine.Invalidation.MarkDeletedAsync(engine.Key(), new(2), Moment.Now, CancellationToken.None)
            : engine.GetAsync(cached == "it" ? thing : null));

        await CompareAsync(node, From(engine, () => inSource ? thing : null));

        Assert.Equal(inconsistencies, Inconsistencies(node, "things", "redis"));
        Assert.Equal(1, Staleness(node, "things", "redis"));
    }

    [Theory]
    [InlineData("the entry is replaced at once")]
    [InlineData("the entry is replaced late")]
    [InlineData("the entry is replaced by another old one")]
    [InlineData("the entry is cleared")]
    [InlineData("the source changes")]
    public async Task A_change_under_way_is_not_counted(string what)
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("old", 1));
        var looks = 0;

        await CompareAsync(node, From(engine, async _ =>
        {
            looks++;
            switch (what)
            {
                case "the entry is replaced at once" when looks == 1:
                case "the entry is replaced late" when looks == Looks - 1:
                    await engine.PutAsync(engine.Key(), new("new", 3), CancellationToken.None);
                    break;
                case "the entry is replaced by another old one" when looks == Looks - 1:
                    await engine.PutAsync(engine.Key(), new("middle", 2), CancellationToken.None);
                    break;
                case "the entry is cleared" when looks == Looks - 1:
                    await engine.Invalidation.ClearAsync(engine.Cache.Name, cause: null, CancellationToken.None);
                    break;
                case "the source changes" when looks == Looks:
                    return new("newest", 4);
            }

            return new("new", 3);
        }));

        Assert.Equal(0, node.Metric("cache.inconsistencies"));
        Assert.Equal((1, 0), (Staleness(node, "things", "redis"), Staleness(node, "things", "redis", atMost: 0)));
        Assert.Equal(what switch { "the entry is replaced at once" => 2, "the entry is cleared" => Looks - 1, _ => Looks }, looks);
    }

    [Theory]
    [InlineData("a tombstone")]
    [InlineData("a stale entry")]
    [InlineData("an entry older than one that was served while Redis was away")]
    [InlineData("an entry whose invalidation is queued")]
    [InlineData("nothing")]
    public async Task An_entry_that_redis_does_not_serve_is_not_compared(string what)
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var node = await CacheNode.StartAsync(servers, time: time);
        var engine = new Engine(node.Services, new() { MemoryTtl = TimeSpan.Zero, StaleFor = TimeSpan.FromDays(1) });
        if (what != "nothing")
        {
            await engine.GetAsync(new Thing("old", 1));
        }

        switch (what)
        {
            case "a tombstone":
                await engine.Invalidation.InvalidateAsync(engine.Key(), new(2), CancellationToken.None);
                break;
            case "a stale entry":
                time.Advance(TimeSpan.FromHours(1));
                break;
            case "an entry older than one that was served while Redis was away":
                node.Services.GetRequiredService<SeenRevisions>().Add(
                    engine.Cache, "1", CacheEntry.Of(new("1", 0), engine.Cache, new("later", 2), TimeSpan.Zero, time.GetUtcNow()));
                break;
            case "an entry whose invalidation is queued":
                node.Services.GetRequiredService<AutoRecoveryQueue>().Enqueue("things", "1", new(2));
                break;
        }

        var loads = 0;
        await CompareAsync(node, From(engine, () =>
        {
            loads++;
            return new("new", 3);
        }));

        Assert.Equal((0, 0), (loads, node.Metric("cache.staleness")));
    }

    [Fact]
    public async Task An_entry_that_memory_does_not_serve_is_not_compared()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var node = await CacheNode.StartAsync(servers, time: time);
        var engine = new Engine(node.Services, new() { Ttl = TimeSpan.FromHours(1), MemoryTtl = TimeSpan.FromMinutes(1) });
        await engine.GetAsync(new Thing("old", 1));
        Assert.Equal(CacheOutcome.MemoryHit, (await engine.GetAsync(new Thing("old", 1))).Outcome);

        time.Advance(TimeSpan.FromMinutes(2));
        await CompareAsync(node, From(engine, () => new("old", 1)));

        Assert.Equal((0, 1), (Staleness(node, "things", "memory"), Staleness(node, "things", "redis")));
    }

    [Fact]
    public async Task A_source_that_fails_ends_the_comparison_and_is_not_an_inconsistency()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("old", 1));
        var loads = 0;

        await CompareAsync(node, From(engine, () =>
            ++loads == Looks ? throw new InvalidOperationException("The source fails.") : new Thing("new", 2)));

        Assert.Equal(Looks, loads);
        Assert.Equal((0, 0), (node.Metric("cache.inconsistencies"), node.Metric("cache.staleness")));
    }

    [Fact]
    public async Task A_source_that_hangs_is_given_up_after_the_load_timeout()
    {
        await using var node = await CacheNode.StartAsync(servers, options => options.LoadTimeout = TimeSpan.FromMilliseconds(100));
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("it", 1));

        var comparison = CompareAsync(node, From(engine, async cancel =>
        {
            await Task.Delay(Timeout.Infinite, cancel);
            return null;
        }));

        await comparison.WaitAsync(TimeSpan.FromSeconds(30));
    }

    [Fact]
    public async Task An_entry_in_memory_is_compared_even_if_it_was_not_read_from_redis_recently()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, new() { MemoryTtl = TimeSpan.FromMinutes(1), EarlyRefresh = false });
        for (var id = 0; id < 300; id++)
        {
            await engine.GetAsync(new Thing("it", 1), $"{id}");
        }

        Assert.DoesNotContain("0", engine.Cache.Recent.Sample(int.MaxValue));
        var compared = new ConcurrentDictionary<string, bool>();
        engine.Source = (id, _) =>
        {
            compared[id] = true;
            return Task.FromResult<Thing?>(new("it", 1));
        };
        using var checker = Checker(node, rate: 1000, engine.Cache);
        await checker.StartAsync(CancellationToken.None);
        await Eventually.TrueAsync(() => compared.ContainsKey("0"), "the first key to be compared");
        await checker.StopAsync(CancellationToken.None);
    }

    [Fact]
    public async Task It_is_off_at_0_and_leaves_out_caches_that_cannot_be_compared()
    {
        await using var node = await CacheNode.StartAsync(
            servers,
            options => options.Verify = 0,
            services: services => services.AddCaching().AddCache<Thing>(
                "comparable",
                cache => cache.Json(ThingJson.Default.Thing).LoadWith<TimeProvider>((_, _, _) => Task.FromResult<Thing?>(null))));
        Assert.True(node.Services.GetRequiredService<Cache<Thing>>().HasSource);
        await node.Services.GetRequiredService<ConsistencyChecker>().ExecuteTask!.WaitAsync(TimeSpan.FromSeconds(30));
        Assert.DoesNotContain(node.Samples(), sample => sample.StartsWith("cache.inconsistencies", StringComparison.Ordinal));

        foreach (var cache in new[]
        {
            TestCache.Of(node.Services, "no-loader", new(), ThingJson.Default.Thing, thing => thing.Version),
            TestCache.Of(
                node.Services,
                "expiring",
                new(),
                ThingJson.Default.Thing,
                load: (_, _) => Task.FromResult<Thing?>(null),
                requiresBackplane: false),
        })
        {
            using var checker = Checker(node, rate: 0.5, cache);
            await checker.StartAsync(CancellationToken.None);
            await checker.ExecuteTask!.WaitAsync(TimeSpan.FromSeconds(30));
        }
    }

    [Fact]
    public async Task It_compares_no_more_keys_than_configured_and_one_at_a_time()
    {
        const int Rate = 40;
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        for (var id = 0; id < 200; id++)
        {
            await engine.GetAsync(new Thing("it", 1), $"{id}");
        }

        var (loads, running, most) = (0, 0, 0);
        Func<string, CancellationToken, Task<Thing?>> slow = async (_, _) =>
        {
            Interlocked.Increment(ref loads);
            most = Math.Max(most, Interlocked.Increment(ref running));
            // Longer than the time between two comparisons.
            await Task.Delay(TimeSpan.FromSeconds(2.0 / Rate), CancellationToken.None);
            Interlocked.Decrement(ref running);
            return new("it", 1);
        };
        Func<string, CancellationToken, Task<Thing?>> quick = (_, _) =>
        {
            Interlocked.Increment(ref loads);
            return Task.FromResult<Thing?>(new("it", 1));
        };

        foreach (var source in new[] { slow, quick })
        {
            engine.Source = source;
            using var checker = Checker(node, Rate, engine.Cache);
            loads = 0;
            var start = Stopwatch.GetTimestamp();
            await checker.StartAsync(CancellationToken.None);
            await Eventually.TrueAsync(() => Volatile.Read(ref loads) >= Rate, "comparisons");
            await checker.StopAsync(CancellationToken.None);

            Assert.InRange(loads, Rate, Stopwatch.GetElapsedTime(start).TotalSeconds * Rate + 1);
        }

        Assert.Equal(1, most);
    }

    [Fact]
    public async Task A_comparison_costs_one_load_unless_there_is_a_difference()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, new() { MemoryTtl = TimeSpan.FromMinutes(1) });
        await engine.GetAsync(new Thing("it", 1));
        var (loads, source) = (0, new Thing("it", 1));
        var cache = From(engine, () =>
        {
            loads++;
            return source;
        });

        await CompareAsync(node, cache);
        Assert.Equal(1, loads);

        (loads, source) = (0, new("other", 1));
        await CompareAsync(node, cache);
        Assert.Equal(Looks, loads);
    }

    private static Task CompareAsync(CacheNode node, Cache cache, string id = "1") =>
        node.Services.GetRequiredService<ConsistencyChecker>().CompareAsync(cache, id, CancellationToken.None);

    private static ConsistencyChecker Checker(CacheNode node, double rate, Cache cache) =>
        ActivatorUtilities.CreateInstance<ConsistencyChecker>(
            node.Services, (IEnumerable<Cache>)[cache], Options.Create(new CachingOptions { Verify = rate }));

    private static Cache<Thing> From(Engine engine, Func<Thing?> source) => From(engine, _ => Task.FromResult(source()));

    private static Cache<Thing> From(Engine engine, Func<CancellationToken, Task<Thing?>> source)
    {
        engine.Source = (_, cancel) => source(cancel);
        return engine.Cache;
    }

    private static double Inconsistencies(CacheNode node, string cache, string tier) =>
        node.Metric("cache.inconsistencies", ("cache", cache), ("tier", tier));

    /// <summary>The number of recorded times; with <paramref name="atMost"/>, the number up to this bucket.</summary>
    private static double Staleness(CacheNode node, string cache, string tier, double? atMost = null) => atMost is null
        ? node.Metric("cache.staleness", ("cache", cache), ("tier", tier))
        : node.Recorded("cache.staleness", atMost.Value, ("cache", cache), ("tier", tier));
}
