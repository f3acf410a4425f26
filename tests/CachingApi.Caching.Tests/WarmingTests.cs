using CachingApi.Caching.Operations;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace CachingApi.Caching.Tests;

/// <summary>A warm-up reports what the cache keeps, not only what was loaded.</summary>
public sealed class WarmingTests(TestServers servers)
{
    private static readonly string[] Keys = ["1", "2", "3"];

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task What_is_loaded_while_redis_is_away_is_not_kept_unless_memory_can_keep_it(bool canBeInvalidated)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(
            CacheNode.On(redis.ConnectionString, deadline: TimeSpan.FromMilliseconds(300)),
            configure: cache => canBeInvalidated ? cache : cache.ExpiresOnly());
        await redis.PauseAsync();

        var away = await WarmAsync(node);

        Assert.Equal((3, 3, canBeInvalidated ? 0 : 3, 0), (away.Total, away.Done, away.Kept, away.Failed));
        var line = Assert.Single(node.Log, line => line.StartsWith("Warm-up", StringComparison.Ordinal));
        Assert.StartsWith($"Warm-up of the cache items: 3 of 3 loaded, {away.Kept} kept, 0 failed", line, StringComparison.Ordinal);
        Assert.Equal(
            canBeInvalidated, line.Contains("failed: Entries were not kept because Redis is not in use.", StringComparison.Ordinal));
        Assert.DoesNotContain("none failed", line, StringComparison.Ordinal);
        Assert.Equal(away, node.Services.GetRequiredService<Warming>().FindLast(Items(node)));

        await redis.ResumeAsync();
        await CacheNode.TrustedAsync(node);
        var back = await WarmAsync(node);
        Assert.Equal((3, 3, 0), (back.Done, back.Kept, back.Failed));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task An_entry_that_is_too_large_is_not_kept(bool withRedis)
    {
        var shelf = Full();
        shelf["2"] = new(new string('x', 2000), 1);
        await using var node = await StartAsync(
            options =>
            {
                options.MaxEntryBytes = 1024;
                (options.Redis, options.RedisState) = withRedis ? (options.Redis, options.RedisState) : (null, null);
            },
            shelf,
            cache => cache.WarmWith<Shelf>(Top, warming => warming.AtStart = _ => 3));

        WarmingJob? start = null;
        await Eventually.TrueAsync(() => (start = Last(node))?.FinishedAt is not null);

        Assert.Equal((3, 3, 2, 0), (start!.Total, start.Done, start.Kept, start.Failed));
        Assert.Contains(
            node.Log, line => line.Contains("2 kept, 0 failed: Entries were not kept because they are", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_fill_that_is_refused_is_not_kept()
    {
        Cache<Item>? items = null;
        await using var node = await StartAsync(configure: cache => cache.WarmWith<Shelf>(Top, warming =>
            warming.Load = async (_, key, cancel) => await items!.GetAsync(
                key,
                async stop =>
                {
                    await items.EvictAsync(key, stop); // it ends the lease of this load
                    return new("it", 1);
                },
                cancel)));
        items = Items(node);

        var job = await WarmAsync(node);

        Assert.Equal((3, 0, 0), (job.Done, job.Kept, job.Failed));
    }

    [Fact]
    public async Task A_load_that_fails_counts_as_failed_also_if_a_stale_entry_remains()
    {
        var isBroken = false;
        Cache<Item>? items = null;
        await using var node = await StartAsync(configure: cache => cache
            .Configure(options => (options.Ttl, options.StaleFor) = (TimeSpan.FromMilliseconds(50), TimeSpan.FromHours(1)))
            .WarmWith<Shelf>(Top, warming => warming.Load = async (_, key, cancel) => await items!.GetAsync(
                key, _ => isBroken ? throw new FormatException("It is broken.") : Task.FromResult<Item?>(new("it", 1)), cancel)));
        items = Items(node);
        Assert.Equal((3, 3, 0), (await WarmAsync(node)) is var first ? (first.Done, first.Kept, first.Failed) : default);
        isBroken = true;

        WarmingJob? job = null;
        await Eventually.TrueAsync(async () => (job = await WarmAsync(node)).Failed == 3);

        Assert.Equal((0, 0), (job!.Done, job.Kept));
        Assert.Contains(node.Log, line => line.Contains("0 of 3 loaded, 0 kept, 3 failed: The last failure: ", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Warm_loads_are_no_look_ups_so_the_hit_ratio_is_that_of_the_clients()
    {
        await using var node = await StartAsync();
        double LookUps(string tier) => node.Metric("cache.requests", ("cache", "items"), ("tier", tier));

        await WarmAsync(node); // misses
        await WarmAsync(node); // hits
        Assert.Equal(3, node.Metric("cache.loads", ("cache", "items")));
        Assert.Equal((0, 0), (LookUps("memory"), LookUps("redis")));

        foreach (var key in Keys)
        {
            await Items(node).GetAsync(key, CancellationToken.None);
        }

        Assert.Equal(3, node.Metric("cache.requests", ("cache", "items"), ("result", "hit")) - node.Metric(
            "cache.requests", ("cache", "items"), ("tier", "source")));
        Assert.Equal(0, node.Metric("cache.requests", ("cache", "items"), ("result", "miss")));
    }

    [Fact]
    public async Task The_warm_up_at_start_waits_until_redis_is_in_use()
    {
        await using var redis = await RedisServer.StartAsync();
        await redis.KillAsync();
        var shelf = Full();
        await using var node = await StartAsync(
            CacheNode.On(redis.ConnectionString),
            shelf,
            configure: cache => cache.WarmWith<Shelf>(Top, warming => warming.AtStart = _ => 3),
            whenTrusted: false);

        await redis.StartAgainAsync();
        await Eventually.TrueAsync(() => Last(node)?.FinishedAt is not null);

        var start = Last(node)!;
        Assert.Equal(3, shelf.Loads);
        Assert.Equal((3, 3, 3, 0), (start.Total, start.Done, start.Kept, start.Failed));
        Assert.Contains(
            node.Log, line => line.StartsWith("Warm-up of the cache items: 3 of 3 loaded, 3 kept, 0 failed", StringComparison.Ordinal));
    }

    /// <summary>As the first calls of a process do, some of which miss their deadline.</summary>
    [Fact]
    public async Task The_warm_up_at_start_loads_again_what_was_not_kept()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        var loads = 0;
        await using var node = await StartAsync(
            CacheNode.On(proxy.ConnectionString, deadline: TimeSpan.FromMilliseconds(300)),
            configure: cache => cache.WarmWith<Shelf>(Top, warming =>
            {
                warming.AtStart = _ => 3;
                warming.Load = async (services, key, cancel) =>
                    await services.GetRequiredService<Cache<Item>>().GetAsync(key, LoadAsync, cancel);
            }),
            whenTrusted: false);

        // The first fill misses its deadline.
        await Eventually.TrueAsync(() => node.Metric("cache.operation.duration", ("operation", "set")) > 0);
        proxy.Delay = TimeSpan.Zero;
        await Eventually.TrueAsync(() => Last(node)?.FinishedAt is not null);

        Assert.Equal((3, 3, 3, 0), Last(node) is { } start ? (start.Total, start.Done, start.Kept, start.Failed) : default);

        Task<Item?> LoadAsync(CancellationToken cancel)
        {
            if (Interlocked.Increment(ref loads) == 1)
            {
                proxy.Delay = TimeSpan.FromMilliseconds(600);
            }

            return Task.FromResult<Item?>(new("it", 1));
        }
    }

    [Fact]
    public async Task The_warm_up_at_start_does_not_wait_for_redis_for_ever()
    {
        await using var redis = await RedisServer.StartAsync();
        await redis.KillAsync();
        await using var node = await StartAsync(
            CacheNode.On(redis.ConnectionString, deadline: TimeSpan.FromMilliseconds(300)),
            configure: cache => cache.WarmWith<Shelf>(Top, warming => warming.AtStart = _ => 3),
            whenTrusted: false);

        await Eventually.TrueAsync(() => Last(node)?.FinishedAt is not null);

        Assert.Equal((3, 0), (Last(node)!.Done, Last(node)!.Kept));
    }

    private static Shelf Full()
    {
        var shelf = new Shelf();
        foreach (var key in Keys)
        {
            shelf[key] = new("it", 1);
        }

        return shelf;
    }

    private static Task<IReadOnlyList<string>> Top(Shelf shelf, int count, CancellationToken cancel) =>
        Task.FromResult<IReadOnlyList<string>>(Keys);

    private static Cache<Item> Items(CacheNode node) => node.Services.GetRequiredService<Cache<Item>>();

    private static WarmingJob? Last(CacheNode node) => node.Services.GetRequiredService<Warming>().FindLast(Items(node));

    /// <summary>Warms the cache by a job, and returns the job when it has ended.</summary>
    private static async Task<WarmingJob> WarmAsync(CacheNode node)
    {
        var warming = node.Services.GetRequiredService<Warming>();
        var id = "";
        await Eventually.TrueAsync(async () =>
        {
            (id, var begun) = await warming.BeginAsync(Items(node), Keys, CancellationToken.None);
            return begun;
        });
        (WarmingJob Job, bool Running)? found = null;
        await Eventually.TrueAsync(async () => (found = await warming.FindAsync(id, CancellationToken.None))?.Job.FinishedAt is not null);
        return found!.Value.Job;
    }

    private Task<CacheNode> StartAsync(
        Action<CachingOptions>? options = null,
        Shelf? shelf = null,
        Func<CacheBuilder<Item>, CacheBuilder<Item>>? configure = null,
        bool whenTrusted = true) =>
        CacheNode.StartAsync(
            servers,
            options,
            log: LogLevel.Information,
            whenTrusted: whenTrusted,
            services: services =>
            {
                services.AddSingleton(shelf ?? Full());
                services.AddCaching().AddCache<Item>("items", cache =>
                {
                    cache.Json(ItemJson.Default.Item)
                        .Version(item => item.Version)
                        .LoadWith<Shelf>((rows, id, _) => rows.FindAsync(id))
                        .Configure(lifetimes => lifetimes.EarlyRefresh = false)
                        .WarmWith<Shelf>(Top);
                    configure?.Invoke(cache);
                });
            });
}
