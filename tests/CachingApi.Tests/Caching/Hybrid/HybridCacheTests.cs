using System.Diagnostics;
using CachingApi.Caching;
using CachingApi.Caching.Hybrid;
using CachingApi.Caching.Operations;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.Caching.Hybrid;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Caching.Hybrid;

/// <summary>The library's <see cref="HybridCache"/> beyond the abstract class, and under faults.</summary>
public sealed class HybridCacheTests(TestServers servers)
{
    private static readonly HybridCacheEntryOptions Refresh = new()
    {
        Flags = HybridCacheEntryFlags.DisableLocalCacheRead | HybridCacheEntryFlags.DisableDistributedCacheRead,
    };

    [Fact]
    public async Task A_slow_reader_itself_receives_the_new_value()
    {
        await using var node = await StartAsync();
        await using var other = await node.StartOtherAsync();
        Dictionary<string, Func<string, ValueTask>> changes = new()
        {
            ["removed"] = key => other.Cache.RemoveAsync(key),
            ["set"] = key => other.Cache.SetAsync(key, "new", tags: ["tag"]),
        };
        foreach (var (key, change) in changes)
        {
            var source = new Source<string>("old");
            source.Hold();
            var reader = node.Cache.GetOrCreateAsync(key, source.LoadAsync, tags: ["tag"]).AsTask();
            await source.HasRead;
            source.Value = "new";
            await change(key);
            source.Release();

            Assert.Equal("new", await reader);
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_reader_that_comes_after_a_removal_does_not_join_an_older_load(bool withRedis)
    {
        await using var node = await StartAsync(withRedis);
        Dictionary<string, Func<string, ValueTask>> changes = new()
        {
            ["removed"] = key => node.Cache.RemoveAsync(key),
            ["tag removed"] = _ => node.Cache.RemoveByTagAsync("tag"),
            ["all removed"] = _ => node.Cache.RemoveByTagAsync("*"),
        };
        foreach (var (key, change) in changes)
        {
            var source = new Source<string>("old");
            source.Hold();
            var before = node.Cache.GetOrCreateAsync(key, source.LoadAsync, tags: ["tag"]).AsTask();
            await source.HasRead;
            source.Value = "new";
            await change(key);
            var after = node.Cache.GetOrCreateAsync(key, source.LoadAsync, tags: ["tag"]).AsTask();
            source.Release();

            Assert.Equal("new", await after);
            await before;
        }
    }

    [Fact]
    public async Task A_refresh_does_not_join_a_load_that_may_read_Redis()
    {
        await using var node = await StartAsync();
        var source = new Source<string>("old");
        source.Hold();
        var before = node.Cache.GetOrCreateAsync("key", source.LoadAsync).AsTask();
        await source.HasRead;
        var refresh = node.Cache.GetOrCreateAsync("key", _ => ValueTask.FromResult("refreshed"), Refresh).AsTask();
        source.Release();

        Assert.Equal("old", await before);
        Assert.Equal("refreshed", await refresh);
        Assert.Equal("refreshed", await node.Cache.GetOrCreateAsync("key", Never<string>));
    }

    [Fact]
    public async Task A_refresh_reaches_the_memory_of_other_processes()
    {
        await using var node = await StartAsync();
        await using var other = await node.StartOtherAsync();
        await node.Cache.SetAsync("key", "old");
        await Eventually.TrueAsync(
            async () => await other.InRedisOrMemoryAsync<string>("key") == "old" && await other.InMemoryAsync<string?>("key") == "old",
            "the other process to have it in memory");

        Assert.Equal("new", await node.Cache.GetOrCreateAsync("key", New, Refresh));
        await Eventually.TrueAsync(async () => await other.InRedisOrMemoryAsync<string?>("key") == "new", "the message");
    }

    [Fact]
    public async Task Loads_without_Redis_do_not_wait_for_other_processes()
    {
        await using var node = await StartAsync();
        await using var other = await node.StartOtherAsync();
        var source = new Source<string>("it");
        source.Hold();
        HybridCacheEntryOptions around = new() { Flags = HybridCacheEntryFlags.DisableDistributedCache };

        var here = node.Cache.GetOrCreateAsync("key", source.LoadAsync, around).AsTask();
        var there = other.Cache.GetOrCreateAsync("key", source.LoadAsync, around).AsTask();
        await Eventually.TrueAsync(() => source.Loads == 2, "both processes to load");
        source.Release();

        Assert.Equal("it", await here);
        Assert.Equal("it", await there);
    }

    [Fact]
    public async Task A_load_may_read_the_cache()
    {
        await using var node = await StartAsync(settings: settings => settings.MaximumLoads = 2);
        var all = Enumerable.Range(0, 20).Select(number => node.Cache.GetOrCreateAsync(
            $"outer {number}",
            async stop => await node.Cache.GetOrCreateAsync($"inner {number}", new Source<int>(number).LoadAsync, cancellationToken: stop))
            .AsTask());

        Assert.Equal(Enumerable.Range(0, 20), await Task.WhenAll(all));
    }

    [Fact]
    public async Task A_frozen_Redis_costs_one_deadline_once()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await HybridNode.StartAsync(
            Implementation.Ours, redis.ConnectionString, deadline: TimeSpan.FromMilliseconds(500));
        await node.Cache.SetAsync("known", "it", tags: ["known"]);
        await redis.PauseAsync();
        try
        {
            var (slowest, total) = (TimeSpan.Zero, Stopwatch.StartNew());
            for (var read = 0; read < 20; read++)
            {
                var start = Stopwatch.GetTimestamp();
                Assert.Equal("it", await node.Cache.GetOrCreateAsync($"{read}", new Source<string>("it").LoadAsync, tags: [$"tag {read}"]));
                var took = Stopwatch.GetElapsedTime(start);
                slowest = took > slowest ? took : slowest;
            }

            await node.Cache.SetAsync("known", "new", tags: ["known"]);
            await node.Cache.RemoveByTagAsync("known");
            await node.Cache.RemoveAsync("known");

            // Three failures open the circuit; after that, no call waits for Redis.
            Assert.InRange(slowest, TimeSpan.FromMilliseconds(300), TimeSpan.FromMilliseconds(950));
            Assert.InRange(total.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(4));
        }
        finally
        {
            await redis.ResumeAsync();
        }
    }

    [Theory]
    [InlineData("set")]
    [InlineData("removed")]
    [InlineData("tag removed")]
    public async Task A_value_replaced_while_Redis_is_away_is_not_served_afterwards(string change)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var other = await HybridNode.StartAsync(Implementation.Ours, redis.ConnectionString);
        await using var node = await HybridNode.StartAsync(Implementation.Ours, proxy.ConnectionString, prefix: other.Prefix);
        await node.Cache.SetAsync("key", "old", tags: ["tag"]);

        // Commands sent to a frozen server arrive when it goes on. Without a connection, they do not.
        proxy.Cut();
        var tier = node.Services.GetRequiredService<RedisTier>();
        await Eventually.TrueAsync(() => !tier.IsTrusted, "the connection to be lost");
        await (change switch
        {
            "set" => node.Cache.SetAsync("key", "new"),
            "removed" => node.Cache.RemoveAsync("key"),
            _ => node.Cache.RemoveByTagAsync("tag"),
        });
        Assert.Equal("new", await node.Cache.GetOrCreateAsync("key", New));

        proxy.Mend();
        await Eventually.TrueAsync(() => tier.IsTrusted, "Redis to be trusted");
        // The other process first: this one would load again because it has served a value that Redis does not have.
        Assert.NotEqual("old", await other.InRedisAsync<string?>("key"));
        Assert.Equal("new", await node.Cache.GetOrCreateAsync("key", New));
        await Eventually.TrueAsync(async () => await other.Cache.GetOrCreateAsync("key", New) == "new", "the other process");
    }

    [Fact]
    public async Task An_invalidation_while_Redis_is_away_leaves_other_entries_alone()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await HybridNode.StartAsync(
            Implementation.Ours, redis.ConnectionString, deadline: TimeSpan.FromMilliseconds(500));
        await node.Cache.SetAsync("removed", "old");
        await node.Cache.SetAsync("kept", "it");

        await redis.PauseAsync();
        await node.Cache.RemoveAsync("removed");
        await redis.ResumeAsync();
        await Eventually.TrueAsync(() => node.Services.GetRequiredService<RedisTier>().IsTrusted, "Redis to be trusted");

        Assert.Null(await node.InRedisAsync<string?>("removed"));
        Assert.Equal("it", await node.InRedisAsync<string?>("kept"));
    }

    [Fact]
    public async Task A_tag_removal_whose_message_is_lost_is_seen_when_the_connection_is_back()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var writer = await HybridNode.StartAsync(Implementation.Ours, redis.ConnectionString);
        await using var reader = await HybridNode.StartAsync(Implementation.Ours, proxy.ConnectionString, prefix: writer.Prefix);
        await reader.Cache.SetAsync("key", "old", tags: ["tag"]);
        Assert.Equal("old", await reader.InMemoryAsync<string>("key"));

        proxy.Swallows = true;
        await writer.Cache.RemoveByTagAsync("tag");
        var backplane = reader.Services.GetRequiredService<Backplane>();
        await Eventually.TrueAsync(() => !backplane.IsTrusted, "the backplane not to be trusted");
        Assert.Null(await reader.InMemoryAsync<string?>("key"));
        proxy.Cut();
        proxy.Swallows = false;
        proxy.Mend();
        await Eventually.TrueAsync(
            () => backplane.IsTrusted && reader.Services.GetRequiredService<RedisTier>().IsTrusted, "the backplane to be trusted");

        for (var read = 0; read < 20; read++)
        {
            Assert.Equal("new", await reader.Cache.GetOrCreateAsync("key", New, tags: ["tag"]));
        }
    }

    [Fact]
    public async Task A_stamp_that_Redis_has_lost_makes_the_entries_invalid()
    {
        await using var node = await StartAsync();
        await node.Cache.SetAsync("key", "old", tags: ["tag"]);
        await node.Cache.RemoveByTagAsync("tag");
        await using (var connection = await ConnectionMultiplexer.ConnectAsync(servers.Redis))
        {
            Assert.True(await connection.GetDatabase().KeyDeleteAsync($"{node.Prefix}:hybrid:tag:tag"));
        }

        // A process that has not received the removal asks Redis, which has lost the stamp.
        await using var other = await node.StartOtherAsync();
        Assert.Equal("new", await other.Cache.GetOrCreateAsync("key", New));

        // The first one has a stamp from before.
        Assert.Equal("new", await node.InRedisAsync<string>("key"));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task The_tags_that_a_process_tracks_are_bounded(bool withRedis)
    {
        await using var node = await HybridNode.StartAsync(
            Implementation.Ours, withRedis ? servers.Redis : null, settings: settings => settings.MemoryTags = 20);
        for (var number = 0; number < 200; number++)
        {
            await node.Cache.SetAsync($"{number}", "it", tags: [$"tag {number}"]);
            Assert.InRange(node.Tags.Count, 1, 20);
        }

        // The process asks for forgotten tags again, and memory serves no entry whose tag is not tracked.
        Assert.Equal("it", await node.InMemoryAsync<string>("199"));
        Assert.True(!withRedis || await node.InRedisOrMemoryAsync<string?>("0") == "it");
        for (var number = 0; number < 200; number++)
        {
            await node.Cache.RemoveByTagAsync($"tag {number}");
            Assert.Null(await node.InRedisOrMemoryAsync<string?>($"{number}"));
        }
    }

    [Fact]
    public async Task An_entry_with_other_tags_than_the_callers_is_found_by_all_processes()
    {
        await using var node = await StartAsync();
        await using var other = await node.StartOtherAsync();
        var source = new Source<string>("it");
        source.Hold();

        var here = node.Cache.GetOrCreateAsync("key", source.LoadAsync, tags: ["a", "b"]).AsTask();
        await source.HasRead;
        var there = other.Cache.GetOrCreateAsync("key", source.LoadAsync, tags: ["c"]).AsTask();
        source.Release();

        Assert.Equal("it", await here);
        Assert.Equal("it", await there);
        Assert.Equal(1, source.Loads);
        await node.Cache.RemoveByTagAsync("b");
        await Eventually.TrueAsync(async () => await other.InRedisOrMemoryAsync<string?>("key") is null, "the removal of the tag");
    }

    [Fact]
    public async Task An_entry_of_another_shape_is_loaded_again()
    {
        await using var node = await StartAsync();
        await using var upgraded = await HybridNode.StartAsync(
            Implementation.Ours,
            servers.Redis,
            services => services.AddSingleton<IHybridCacheSerializer<Price>, PriceSerializer>(),
            prefix: node.Prefix);
        await node.Cache.SetAsync("key", new Price(1, "EUR"));
        Assert.Equal(new(2, "EUR"), await upgraded.Cache.GetOrCreateAsync("key", _ => ValueTask.FromResult(new Price(2, "EUR"))));

        // No type of this name exists here, as after a renaming. The entry counts as a miss, because otherwise every read would fail until
        // it expires.
        await node.Cache.SetAsync("renamed", new Basket());
        Assert.Equal("new", await upgraded.Cache.GetOrCreateAsync("renamed", New));
    }

    [Fact]
    public async Task The_factory_decides_how_long_its_value_is_kept()
    {
        await using var node = await StartAsync();
        Assert.Equal("it", await node.Cache.GetOrCreateAsync("brief", (load, _) =>
        {
            Assert.Equal(TimeSpan.FromMinutes(7), load.Expiration);
            load.Expiration = TimeSpan.FromMilliseconds(300);
            return ValueTask.FromResult("it");
        }, new() { Expiration = TimeSpan.FromMinutes(7) }));
        Assert.Equal("long", await node.Cache.GetOrCreateAsync("long", "long", (state, load, _) =>
        {
            load.Expiration = TimeSpan.FromDays(1);
            return ValueTask.FromResult(state);
        }, new() { Expiration = TimeSpan.FromMilliseconds(1) }));

        await Eventually.TrueAsync(async () => await node.InRedisOrMemoryAsync<string?>("brief") is null, "the entry to expire");
        Assert.Equal("long", await node.InRedisAsync<string?>("long"));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task The_factory_decides_that_its_value_is_not_kept(bool withRedis)
    {
        await using var node = await StartAsync(withRedis);
        ValueTask<string> LoadAsync(HybridCacheLoad load, CancellationToken cancel)
        {
            load.Keep = false;
            return ValueTask.FromResult("not to be kept");
        }

        await node.Cache.SetAsync("key", "old");
        Assert.Equal("not to be kept", await node.Cache.GetOrCreateAsync("key", LoadAsync, Refresh));
        Assert.Null(await node.InRedisOrMemoryAsync<string?>("key"));
        Assert.Equal("new", await node.Cache.GetOrCreateAsync("key", New));
    }

    [Fact]
    public async Task A_cached_value_can_be_read_without_a_load()
    {
        await using var node = await StartAsync();
        await using var other = await node.StartOtherAsync();
        Assert.Equal(default, await node.Cache.TryGetAsync<int>("key"));

        await node.Cache.SetAsync("key", 0, tags: ["tag"]);
        Assert.Equal(new(true, 0), await node.Cache.TryGetAsync<int>("key"));
        Assert.Equal(new(true, 0), await other.Cache.TryGetAsync<int>("key"));
        HybridCacheEntryOptions inMemory = new() { Flags = HybridCacheEntryFlags.DisableDistributedCache };
        await Eventually.TrueAsync(
            async () => await other.Cache.TryGetAsync<int>("key") is { Found: true }
                && await other.Cache.TryGetAsync<int>("key", inMemory) is { Found: true },
            "memory to have what Redis has");

        await node.Cache.RemoveByTagAsync("tag");
        Assert.Equal(default, await node.Cache.TryGetAsync<int>("key"));
        Assert.Equal(default, await node.Cache.TryGetAsync<int>(new string('k', 2000)));
    }

    [Fact]
    public async Task An_entry_can_be_removed_from_this_memory_alone()
    {
        await using var node = await StartAsync();
        await using var other = await node.StartOtherAsync();
        await node.Cache.SetAsync("key", "it");
        await Eventually.TrueAsync(
            async () => await other.InRedisOrMemoryAsync<string?>("key") == "it" && await other.InMemoryAsync<string?>("key") == "it",
            "the other process to have it in memory");

        node.Cache.RemoveFromMemory("key");
        Assert.Null(await node.InMemoryAsync<string?>("key"));
        Assert.Equal("it", await other.InMemoryAsync<string?>("key"));
        Assert.Equal("it", await node.Cache.GetOrCreateAsync("key", Never<string>));
    }

    [Fact]
    public async Task Another_implementation_is_not_supported()
    {
        await using var node = await HybridNode.StartAsync(Implementation.Microsoft, redis: null);
        await Assert.ThrowsAsync<NotSupportedException>(async () => await node.Cache.TryGetAsync<int>("key"));
    }

    [Fact]
    public async Task It_is_a_cache_of_the_engine_like_any_other()
    {
        await using var node = await StartAsync(settings: settings => settings.Name = "answers");
        await node.Cache.SetAsync("key", "it");

        var cache = Assert.Single(node.Services.GetServices<Cache>());
        Assert.Equal("answers", cache.Name);
        var seen = await cache.InspectAsync("key", CancellationToken.None);
        Assert.Equal((TierState.Fresh, TierState.Fresh), (seen.Memory.State, seen.Redis.State));
        await cache.EvictAsync("key", CancellationToken.None);
        Assert.Null(await node.InRedisOrMemoryAsync<string?>("key"));
    }

    [Theory]
    [InlineData(nameof(HybridCacheSettings.Name))]
    [InlineData(nameof(HybridCacheSettings.MemoryEntries))]
    [InlineData(nameof(HybridCacheSettings.MaximumExpiration))]
    public async Task A_setting_out_of_its_range_fails_and_is_named(string name)
    {
        var error = await Assert.ThrowsAsync<Microsoft.Extensions.Options.OptionsValidationException>(
            () => HybridNode.StartAsync(Implementation.Ours, redis: null, settings: settings =>
            {
                settings.Name = name is nameof(settings.Name) ? "Not a name" : settings.Name;
                settings.MemoryEntries = name is nameof(settings.MemoryEntries) ? int.MaxValue : settings.MemoryEntries;
                settings.MaximumExpiration =
                    name is nameof(settings.MaximumExpiration) ? TimeSpan.MaxValue : settings.MaximumExpiration;
            }));

        Assert.Contains(name, error.Message, StringComparison.OrdinalIgnoreCase);
    }

    private static ValueTask<string> New(CancellationToken cancel) => ValueTask.FromResult("new");

    private static ValueTask<T> Never<T>(CancellationToken cancel) => throw new InvalidOperationException("Nothing is to be loaded.");

    private Task<HybridNode> StartAsync(bool withRedis = true, Action<HybridCacheSettings>? settings = null) =>
        HybridNode.StartAsync(Implementation.Ours, withRedis ? servers.Redis : null, settings: settings);
}
