using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Caching;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using Microsoft.Extensions.Time.Testing;
using StackExchange.Redis;

namespace CachingApi.Tests.Caching;

/// <summary>The consistency checker finds entries that stay wrong, in the right tier, and nothing else.</summary>
public sealed class ConsistencyCheckerTests(TestServers servers)
{
    private const int Looks = 5;

    private static readonly Dictionary<string, string> InMemory = new()
    {
        ["Cache:Users:MemoryTtl"] = "00:10:00",
        ["Cache:UserLists:MemoryTtl"] = "00:10:00",
        ["Serilog:MinimumLevel:Default"] = "Warning",
    };

    [Fact]
    public async Task Tiers_that_agree_with_the_source_are_recorded_as_not_stale()
    {
        await using var api = await ApiNode.StartAsync(servers, InMemory);
        await MemoryTierTests.TrustedAsync(api);
        var user = await ReadAsync(api);

        await CompareAsync(api, "users", $"{user.Id}");
        await CompareAsync(api, "user-lists", "20:");

        foreach (var cache in new[] { "users", "user-lists" })
        {
            foreach (var tier in new[] { "memory", "redis" })
            {
                Assert.Equal((1, 1), (await StalenessAsync(api, cache, tier), await StalenessAsync(api, cache, tier, atMost: "0")));
                Assert.Equal(0, await InconsistenciesAsync(api, cache, tier));
            }
        }
    }

    [Theory]
    [InlineData("write-through", HttpStatusCode.OK)]
    [InlineData("invalidate", HttpStatusCode.OK)]
    [InlineData("write-behind", HttpStatusCode.Accepted)]
    public async Task Each_way_to_write_leaves_what_the_source_has(string strategy, HttpStatusCode status)
    {
        // PostgreSQL keeps microseconds.
        var time = new FakeTimeProvider(new(2026, 1, 2, 3, 4, 5, TimeSpan.Zero));
        time.Advance(TimeSpan.FromTicks(1_234_567));
        await using var api = await ApiNode.StartAsync(servers, time: time);
        var user = await ReadAsync(api);
        using var admin = await api.AdminAsync();

        var tag = "";
        await Eventually.TrueAsync(async () =>
        {
            var written = await admin.PutAsJsonAsync($"/users/{user.Id}?strategy={strategy}", new { email = user.Email, displayName = "Countess" });
            tag = written.ETag().Tag;
            return written.StatusCode == status;
        }, "the queue to accept writes");
        await Eventually.TrueAsync(async () => await api.SqlAsync<string>($"SELECT format('\"v%s\"', version) FROM users WHERE id = '{user.Id}'") == tag, "the row");
        await admin.GetStringAsync($"/users/{user.Id}");
        await CompareAsync(api, "users", $"{user.Id}");

        Assert.Equal((1, 0), (await StalenessAsync(api, "users", "redis"), await api.MetricAsync("cache_inconsistencies_total")));
    }

    [Fact]
    public async Task Another_content_under_the_same_version_is_found_once_in_each_comparison()
    {
        await using var api = await ApiNode.StartAsync(servers, InMemory);
        await MemoryTierTests.TrustedAsync(api);
        var user = await ReadAsync(api);
        await ReplaceInRedisAsync(api, $"{user.Id}", key => CacheEntry.Of(
            key, api.Services.GetRequiredService<UserCache>().Users, user with { DisplayName = "Tampered" }, TimeSpan.Zero, TimeProvider.System.GetUtcNow()));

        for (var comparison = 1; comparison <= 2; comparison++)
        {
            await CompareAsync(api, "users", $"{user.Id}");
            Assert.Equal((0, comparison), (await InconsistenciesAsync(api, "users", "memory"), await InconsistenciesAsync(api, "users", "redis")));
        }

        Assert.Equal((2, 0), (await StalenessAsync(api, "users", "redis"), await StalenessAsync(api, "users", "redis", atMost: "1")));
        Assert.Equal((2, 2), (await StalenessAsync(api, "users", "memory"), await StalenessAsync(api, "users", "memory", atMost: "0")));
        var warning = Assert.Single(api.Log, line => line.Contains("is inconsistent", StringComparison.Ordinal));
        Assert.Contains($"{user.Id}", warning, StringComparison.Ordinal);
        Assert.DoesNotContain(user.Email, warning, StringComparison.Ordinal);
        Assert.DoesNotContain("Tampered", warning, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("memory")]
    [InlineData("redis")]
    public async Task A_later_version_in_the_row_is_found_in_the_tier_that_lacks_it(string tier)
    {
        await using var api = await ApiNode.StartAsync(servers, tier == "memory" ? InMemory : null);
        await MemoryTierTests.TrustedAsync(api);
        var user = await ReadAsync(api);
        if (tier == "memory")
        {
            await ReplaceInRedisAsync(api, $"{user.Id}", _ => null);
        }

        await api.SqlAsync($"UPDATE users SET display_name = 'Changed by hand' WHERE id = '{user.Id}'");
        await CompareAsync(api, "users", $"{user.Id}");

        Assert.Equal(1, await InconsistenciesAsync(api, "users", tier));
        Assert.Equal(1, await api.MetricAsync("cache_inconsistencies_total"));
    }

    [Fact]
    public async Task A_page_is_found_by_its_content()
    {
        await using var api = await ApiNode.StartAsync(servers, InMemory);
        await MemoryTierTests.TrustedAsync(api);
        var user = await ReadAsync(api);

        await api.SqlAsync($"UPDATE users SET display_name = 'Changed by hand' WHERE id = '{user.Id}'");
        await CompareAsync(api, "user-lists", "20:");

        Assert.Equal((1, 1), (await InconsistenciesAsync(api, "user-lists", "memory"), await InconsistenciesAsync(api, "user-lists", "redis")));
    }

    [Theory]
    [InlineData("it", false, 1)]
    [InlineData("none", true, 1)]
    [InlineData("none", false, 0)]
    [InlineData("deleted", true, 1)]
    [InlineData("deleted", false, 0)]
    public async Task That_there_is_no_such_entity_is_compared_too(string cached, bool inSource, int inconsistencies)
    {
        await using var api = await ApiNode.StartAsync(servers);
        var engine = new Engine(api);
        var thing = new Thing("it", 1);
        await (cached == "deleted"
            ? engine.Invalidation.DeletedAsync(engine.Key(), new(2), Moment.Now, CancellationToken.None)
            : engine.GetAsync(cached == "it" ? thing : null));

        await CompareAsync(api, Managed(engine, () => inSource ? thing : null));

        Assert.Equal(inconsistencies, await InconsistenciesAsync(api, "things", "redis"));
        Assert.Equal(1, await StalenessAsync(api, "things", "redis"));
    }

    [Theory]
    [InlineData("the entry is replaced at once")]
    [InlineData("the entry is replaced late")]
    [InlineData("the entry is replaced by another old one")]
    [InlineData("the entry is cleared")]
    [InlineData("the source changes")]
    public async Task A_change_under_way_is_not_counted(string what)
    {
        await using var api = await ApiNode.StartAsync(servers);
        var engine = new Engine(api);
        await engine.GetAsync(new Thing("old", 1));
        var looks = 0;

        await CompareAsync(api, Managed(engine, async _ =>
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
                    await engine.Invalidation.DropAllAsync(engine.Cache, cause: null, CancellationToken.None);
                    break;
                case "the source changes" when looks == Looks:
                    return new("newest", 4);
            }

            return new("new", 3);
        }));

        Assert.Equal(0, await api.MetricAsync("cache_inconsistencies_total"));
        Assert.Equal((1, 0), (await StalenessAsync(api, "things", "redis"), await StalenessAsync(api, "things", "redis", atMost: "0")));
        Assert.Equal(what switch { "the entry is replaced at once" => 2, "the entry is cleared" => Looks - 1, _ => Looks }, looks);
    }

    [Theory]
    [InlineData("a tombstone")]
    [InlineData("a stale entry")]
    [InlineData("an entry older than one that was served while Redis was away")]
    [InlineData("an entry whose invalidation is queued")]
    [InlineData("nothing")]
    public async Task What_is_not_served_from_redis_is_not_compared(string what)
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var api = await ApiNode.StartAsync(servers, time: time);
        var engine = new Engine(api, new() { MemoryTtl = TimeSpan.Zero, StaleFor = TimeSpan.FromDays(1) });
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
                api.Services.GetRequiredService<SeenRevisions>().Add("things", "1", new(2));
                break;
            case "an entry whose invalidation is queued":
                api.Services.GetRequiredService<OwedInvalidations>().Add("things", "1", new(2));
                break;
        }

        var loads = 0;
        await CompareAsync(api, Managed(engine, () =>
        {
            loads++;
            return new("new", 3);
        }));

        Assert.Equal((0, 0), (loads, await api.MetricAsync("cache_staleness_seconds_count")));
    }

    [Fact]
    public async Task What_is_not_served_from_memory_is_not_compared()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var api = await ApiNode.StartAsync(servers, time: time);
        await MemoryTierTests.TrustedAsync(api);
        var engine = new Engine(api, new() { Ttl = TimeSpan.FromHours(1), MemoryTtl = TimeSpan.FromMinutes(1) });
        await engine.GetAsync(new Thing("old", 1));
        Assert.Equal(CacheOutcome.MemoryHit, (await engine.GetAsync(new Thing("old", 1))).Outcome);

        time.Advance(TimeSpan.FromMinutes(2));
        await CompareAsync(api, Managed(engine, () => new("old", 1)));

        Assert.Equal((0, 1), (await StalenessAsync(api, "things", "memory"), await StalenessAsync(api, "things", "redis")));
    }

    [Fact]
    public async Task A_source_that_fails_ends_the_comparison_and_is_no_inconsistency()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var engine = new Engine(api);
        await engine.GetAsync(new Thing("old", 1));
        var loads = 0;

        await CompareAsync(api, Managed(engine, () => ++loads == Looks ? throw new InvalidOperationException("The source fails.") : new Thing("new", 2)));

        Assert.Equal(Looks, loads);
        Assert.Equal((0, 0), (await api.MetricAsync("cache_inconsistencies_total"), await api.MetricAsync("cache_staleness_seconds_count")));
    }

    [Fact]
    public async Task A_source_that_hangs_is_given_up_when_a_load_is()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Cache:LoadTimeout"] = "00:00:00.100" });
        var engine = new Engine(api);
        await engine.GetAsync(new Thing("it", 1));

        var comparison = CompareAsync(api, Managed(engine, async cancel =>
        {
            await Task.Delay(Timeout.Infinite, cancel);
            return null;
        }));

        await comparison.WaitAsync(TimeSpan.FromSeconds(30));
    }

    [Theory]
    [InlineData("00:00:00")]
    [InlineData("00:10:00")]
    public async Task Keys_that_are_read_are_compared_in_the_background_and_shown_in_the_metrics(string memoryTtl)
    {
        var tiers = memoryTtl == "00:00:00" ? new[] { "redis" } : ["memory", "redis"];
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["Cache:Verify"] = "100",
            ["Cache:Users:MemoryTtl"] = memoryTtl,
            ["Cache:UserLists:MemoryTtl"] = memoryTtl,
        });
        await MemoryTierTests.TrustedAsync(api);
        var user = await ReadAsync(api);
        foreach (var cache in new[] { "users", "user-lists" })
        {
            foreach (var tier in tiers)
            {
                await Eventually.TrueAsync(async () => await StalenessAsync(api, cache, tier, atMost: "0") > 0, $"{cache} in {tier} to be compared");
            }
        }

        var metrics = await api.Anonymous.GetStringAsync("/metrics");
        foreach (var cache in new[] { "users", "user-lists" })
        {
            Assert.Contains($"\ncache_inconsistencies_total{{cache=\"{cache}\",tier=\"memory\"}} 0", metrics, StringComparison.Ordinal);
            Assert.Contains($"\ncache_inconsistencies_total{{cache=\"{cache}\",tier=\"redis\"}} 0", metrics, StringComparison.Ordinal);
        }

        Assert.DoesNotContain("cache_inconsistencies_total{cache=\"weather\"", metrics, StringComparison.Ordinal);

        await api.SqlAsync($"UPDATE users SET display_name = 'Changed by hand' WHERE id = '{user.Id}'");

        foreach (var cache in new[] { "users", "user-lists" })
        {
            foreach (var tier in tiers)
            {
                await Eventually.TrueAsync(async () => await InconsistenciesAsync(api, cache, tier) > 0, $"{cache} in {tier} to be inconsistent");
            }
        }
    }

    [Fact]
    public async Task What_is_in_memory_is_compared_even_if_it_was_not_read_from_redis_lately()
    {
        await using var api = await ApiNode.StartAsync(servers);
        await MemoryTierTests.TrustedAsync(api);
        var engine = new Engine(api, new() { MemoryTtl = TimeSpan.FromMinutes(1), EarlyRefresh = false });
        for (var id = 0; id < 300; id++)
        {
            await engine.GetAsync(new Thing("it", 1), $"{id}");
        }

        Assert.DoesNotContain("0", engine.Cache.Recent.Sample(int.MaxValue));
        var compared = new ConcurrentDictionary<string, bool>();
        using var checker = Checker(api, rate: 1000, Managed(engine) with
        {
            Source = engine.Cache.Source((id, _) =>
            {
                compared[id] = true;
                return Task.FromResult<Thing?>(new("it", 1));
            }),
        });
        await checker.StartAsync(CancellationToken.None);
        await Eventually.TrueAsync(() => compared.ContainsKey("0"), "the first key to be compared");
        await checker.StopAsync(CancellationToken.None);
    }

    [Fact]
    public async Task It_is_off_at_0_and_leaves_out_caches_that_cannot_be_compared()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Cache:Verify"] = "0" });
        await api.Services.GetRequiredService<ConsistencyChecker>().ExecuteTask!.WaitAsync(TimeSpan.FromSeconds(30));
        Assert.DoesNotContain("cache_inconsistencies_total", await api.Anonymous.GetStringAsync("/metrics"), StringComparison.Ordinal);

        var engine = new Engine(api);
        var expiring = new Cache<Thing>("expiring", new(), ThingJson.Default.Thing, _ => 0, requiresBackplane: false);
        foreach (var cache in new[]
        {
            Managed(engine) with { Source = null },
            Managed(engine) with { Cache = expiring, Source = expiring.Source((_, _) => Task.FromResult<Thing?>(null)) },
        })
        {
            using var checker = Checker(api, rate: 0.5, cache);
            await checker.StartAsync(CancellationToken.None);
            await checker.ExecuteTask!.WaitAsync(TimeSpan.FromSeconds(30));
        }
    }

    [Fact]
    public async Task It_compares_no_more_keys_than_configured_and_one_at_a_time()
    {
        const int Rate = 40;
        await using var api = await ApiNode.StartAsync(servers);
        var engine = new Engine(api);
        for (var id = 0; id < 200; id++)
        {
            await engine.GetAsync(new Thing("it", 1), $"{id}");
        }

        var (loads, running, most) = (0, 0, 0);
        var slow = Managed(engine, async _ =>
        {
            Interlocked.Increment(ref loads);
            most = Math.Max(most, Interlocked.Increment(ref running));
            // Longer than the time between two comparisons.
            await Task.Delay(TimeSpan.FromSeconds(2.0 / Rate), CancellationToken.None);
            Interlocked.Decrement(ref running);
            return new("it", 1);
        });
        var quick = Managed(engine, () =>
        {
            Interlocked.Increment(ref loads);
            return new("it", 1);
        });

        foreach (var source in new[] { slow, quick })
        {
            using var checker = Checker(api, Rate, source);
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
        await using var api = await ApiNode.StartAsync(servers);
        await MemoryTierTests.TrustedAsync(api);
        var engine = new Engine(api, new() { MemoryTtl = TimeSpan.FromMinutes(1) });
        await engine.GetAsync(new Thing("it", 1));
        var (loads, source) = (0, new Thing("it", 1));
        var cache = Managed(engine, () =>
        {
            loads++;
            return source;
        });

        await CompareAsync(api, cache);
        Assert.Equal(1, loads);

        (loads, source) = (0, new("other", 1));
        await CompareAsync(api, cache);
        Assert.Equal(Looks, loads);
    }

    /// <summary>Caches a new user, and the first page of users, in every tier that is in use.</summary>
    private static async Task<User> ReadAsync(ApiNode api)
    {
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        await admin.GetStringAsync($"/users/{user.Id}");
        await admin.GetStringAsync("/users");
        return user;
    }

    private static Task CompareAsync(ApiNode api, string cache, string id) =>
        CompareAsync(api, api.Services.GetServices<ManagedCache>().Single(managed => managed.Cache.Name == cache), id);

    private static Task CompareAsync(ApiNode api, ManagedCache cache, string id = "1") =>
        api.Services.GetRequiredService<ConsistencyChecker>().CompareAsync(cache, id, CancellationToken.None);

    private static ConsistencyChecker Checker(ApiNode api, double rate, ManagedCache cache) => ActivatorUtilities.CreateInstance<ConsistencyChecker>(
        api.Services, (IEnumerable<ManagedCache>)[cache], Options.Create(new CachingOptions { Verify = rate }));

    private static ManagedCache Managed(Engine engine, Func<Thing?> source) => Managed(engine, _ => Task.FromResult(source()));

    private static ManagedCache Managed(Engine engine, Func<CancellationToken, Task<Thing?>> source) =>
        Managed(engine) with { Source = engine.Cache.Source((_, cancel) => source(cancel)) };

    private static ManagedCache Managed(Engine engine) => new(engine.Cache, _ => null, (_, _) => Task.FromResult<IReadOnlyList<string>>([]));

    private static Task<double> InconsistenciesAsync(ApiNode api, string cache, string tier) =>
        api.MetricAsync("cache_inconsistencies_total", ("cache", cache), ("tier", tier));

    /// <summary>How many times were recorded; with <paramref name="atMost"/>, how many up to this bucket.</summary>
    private static Task<double> StalenessAsync(ApiNode api, string cache, string tier, string? atMost = null) => atMost is null
        ? api.MetricAsync("cache_staleness_seconds_count", ("cache", cache), ("tier", tier))
        : api.MetricAsync("cache_staleness_seconds_bucket", ("cache", cache), ("tier", tier), ("le", atMost));

    /// <summary>Changes a user's entry in Redis behind the service's back.</summary>
    private async Task ReplaceInRedisAsync(ApiNode api, string id, Func<EntryKey, CacheEntry?> entry)
    {
        var cache = api.Services.GetRequiredService<UserCache>().Users;
        var namespaces = api.Services.GetRequiredService<Namespaces>();
        var key = namespaces.Key(cache, await namespaces.CurrentAsync(cache.Name, CancellationToken.None), id);
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        Assert.True(entry(key) is { } tampered
            ? await redis.GetDatabase().StringSetAsync(key.Text, tampered.Bytes, TimeSpan.FromMinutes(10))
            : await redis.GetDatabase().KeyDeleteAsync(key.Text));
    }
}
