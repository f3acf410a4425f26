using System.Diagnostics.Metrics;
using System.Text.Json;
using CachingApi.Administration;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Tests.Hosting;

/// <summary><c>/cache/stats</c> counts the same events as the test and as <c>/metrics</c>.</summary>
public sealed class CacheStatsTests(TestServers servers)
{
    [Fact]
    public async Task Each_tier_of_each_cache_is_counted_as_metrics_are()
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["Cache:Users:MemoryTtl"] = "00:01:00", ["RateLimits:Enabled"] = "true" });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();

        await admin.GetAsync($"/users/{user.Id}");
        await Eventually.TrueAsync(
            async () => (await admin.GetAsync($"/users/{user.Id}")).CacheStatus().Contains("detail=memory", StringComparison.Ordinal));
        var missing = Guid.CreateVersion7(TimeProvider.System.GetUtcNow());
        await admin.GetAsync($"/users/{missing}");
        await Eventually.TrueAsync(
            async () => (await admin.GetAsync($"/users/{missing}")).CacheStatus().Contains("detail=memory", StringComparison.Ordinal));
        var answer = await admin.GetAsync("/cache/stats");
        var stats = await answer.JsonAsync();

        Assert.Equal("no-store", answer.Header("Cache-Control"));
        Assert.EndsWith($":{Environment.ProcessId}", stats.GetProperty("instance").GetString(), StringComparison.Ordinal);
        Assert.Equal(
            ["users", "user-lists", "weather", "geocoding"],
            stats.GetProperty("caches").EnumerateArray().Select(cache => cache.GetProperty("cache").GetString()));
        var users = stats.GetProperty("caches")[0];
        var tiers = users.GetProperty("tiers").EnumerateArray().ToDictionary(tier => tier.GetProperty("tier").GetString()!);
        foreach (var (tier, counts) in tiers.Where(tier => tier.Key != "source"))
        {
            async Task<double> MetricAsync(string result) =>
                await api.MetricAsync("cache_requests_total", ("cache", "users"), ("tier", tier), ("result", result));
            Assert.Equal(await MetricAsync("hit") + await MetricAsync("negative"), counts.GetProperty("hits").GetDouble());
            Assert.Equal(await MetricAsync("miss"), counts.GetProperty("misses").GetDouble());
        }

        var (memory, redis, source) = (tiers["memory"], tiers["redis"], tiers["source"]);
        Assert.True(memory.GetProperty("hits").GetInt32() >= 2);
        Assert.True(memory.GetProperty("negative").GetInt32() >= 1);
        Assert.Equal(2, memory.GetProperty("entries").GetInt32());
        Assert.Equal(0, memory.GetProperty("evictions").GetInt32());
        Assert.True(redis.GetProperty("misses").GetInt32() >= 2);
        Assert.Equal((2, 0), (source.GetProperty("loads").GetInt32(), source.GetProperty("errors").GetInt32()));
        Assert.True(source.GetProperty("latency").GetProperty("recentP99").GetDouble() > 0);
        var (hits, misses) = (memory.GetProperty("hits").GetDouble(), memory.GetProperty("misses").GetDouble());
        Assert.Equal(hits / (hits + misses), memory.GetProperty("hitRatio").GetDouble(), 3);
        Assert.InRange(users.GetProperty("hitRatio").GetDouble(), 0.01, 0.99);

        var get = stats.GetProperty("operations")
            .EnumerateArray()
            .Single(operation => operation.GetProperty("operation").GetString() == "get")
            .GetProperty("latency");
        Assert.True(get.GetProperty("count").GetInt32() >= 2);
        Assert.True(get.GetProperty("p50").GetDouble() > 0 && get.GetProperty("p50").GetDouble() <= get.GetProperty("p99").GetDouble());
        var limits = stats.GetProperty("limits").EnumerateArray().ToDictionary(limit => limit.GetProperty("policy").GetString()!);
        Assert.Equal(1, limits["login"].GetProperty("allowed").GetInt32());
        Assert.False(stats.GetProperty("circuitOpen").GetBoolean());
        Assert.Equal(0, stats.GetProperty("degraded").GetArrayLength());
        Assert.Equal(JsonValueKind.Null, users.GetProperty("warmUp").ValueKind);
    }

    [Fact]
    public async Task Only_entries_that_memory_displaces_count_as_evicted()
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["Cache:Users:MemoryTtl"] = "00:01:00", ["Cache:Users:MemoryEntries"] = "8" });
        var users = await api.CreateUsersAsync(3);
        using var admin = await api.AdminAsync();
        async Task<(int Entries, int Evictions)> MemoryAsync()
        {
            var memory = (await (await admin.GetAsync("/cache/stats")).JsonAsync()).GetProperty("caches")[0].GetProperty("tiers")[0];
            return (memory.GetProperty("entries").GetInt32(), memory.GetProperty("evictions").GetInt32());
        }

        await Eventually.TrueAsync(async () =>
        {
            foreach (var user in users)
            {
                await admin.GetAsync($"/users/{user.Id}");
            }

            return (await MemoryAsync()).Entries == 3;
        });
        await admin.DeleteAsync($"/cache/entries?key=users:{users[0].Id}");
        await admin.DeleteAsync("/cache/namespaces/users");
        Assert.Equal((0, 0), await MemoryAsync());

        var more = await api.CreateUsersAsync(12);
        await Eventually.TrueAsync(async () =>
        {
            foreach (var user in more)
            {
                await admin.GetAsync($"/users/{user.Id}");
            }

            return (await MemoryAsync()).Evictions > 0;
        });
    }

    [Fact]
    public async Task Redis_says_how_much_it_holds_and_may_hold()
    {
        await using var redis = await RedisServer.StartAsync("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu");
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:Redis"] = redis.ConnectionString });
        using var admin = await api.AdminAsync();
        JsonElement[] nodes = [];
        await Eventually.TrueAsync(async () =>
        {
            nodes = [.. (await (await admin.GetAsync("/cache/stats")).JsonAsync()).GetProperty("redis").EnumerateArray()];
            return nodes.Length > 0;
        });

        var node = Assert.Single(nodes);
        Assert.Equal((redis.ConnectionString, true), (node.GetProperty("node").GetString(), node.GetProperty("up").GetBoolean()));
        Assert.Equal(
            (100 * 1024 * 1024, "allkeys-lfu"),
            (node.GetProperty("maxMemoryBytes").GetInt32(), node.GetProperty("maxMemoryPolicy").GetString()));
        foreach (var field in new[] { "memoryBytes", "networkInBytes", "networkOutBytes" })
        {
            Assert.True(node.GetProperty(field).GetDouble() > 0, field);
        }

        Assert.Equal(0, node.GetProperty("evictedKeys").GetDouble());
        Assert.Equal(JsonValueKind.Number, node.GetProperty("keys").ValueKind);
    }

    [Fact]
    public async Task Of_a_server_that_does_not_answer_nothing_is_known_and_it_is_degraded()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = servers.Redis,
        });
        using var admin = await api.AdminAsync();
        await redis.KillAsync();

        JsonElement stats = default, node = default;
        await Eventually.TrueAsync(async () =>
        {
            stats = await (await admin.GetAsync("/cache/stats")).JsonAsync();
            node = stats.GetProperty("redis").EnumerateArray().First(one => one.GetProperty("role").GetString() == "cache");
            return !node.GetProperty("up").GetBoolean();
        });

        foreach (var field in new[] { "keys", "memoryBytes", "maxMemoryBytes", "maxMemoryPolicy", "evictedKeys", "networkInBytes" })
        {
            Assert.Equal(JsonValueKind.Null, node.GetProperty(field).ValueKind);
        }

        var degraded = Assert.Single(stats.GetProperty("degraded").EnumerateArray());
        Assert.Equal("Redis (cache)", degraded.GetProperty("part").GetString());
        Assert.NotEqual("", degraded.GetProperty("effect").GetString());
    }

    [Fact]
    public void Recent_latencies_are_those_of_a_minute_and_within_a_tenth()
    {
        var time = new FakeTimeProvider();
        using var services = new ServiceCollection().AddMetrics().BuildServiceProvider();
        var meters = services.GetRequiredService<IMeterFactory>();
        using var measurements = new Measurements(meters, time);
        var histogram = meters.Create("CachingApi.Test").CreateHistogram<double>("some.duration", "s");
        Sample Read() => Assert.Single(measurements.Read());
        void Advance(int seconds)
        {
            for (var passed = 0; passed < seconds; passed += 5)
            {
                time.Advance(TimeSpan.FromSeconds(5));
            }
        }

        for (var milliseconds = 1; milliseconds <= 1000; milliseconds++)
        {
            histogram.Record(milliseconds / 1000.0, new KeyValuePair<string, object?>("cache", "users"));
        }

        var sample = Read();
        Assert.Equal(("some_duration", "users", 1000), (sample.Name, sample.Labels["cache"], sample.Recent.Count));
        Assert.InRange(sample.Recent.P50!.Value, 0.45, 0.55);
        Assert.InRange(sample.Recent.P99!.Value, 0.891, 1.089);

        Advance(50);
        histogram.Record(0.001, new KeyValuePair<string, object?>("cache", "users"));
        Assert.Equal((1001, 1001), (Read().Recent.Count, Read().Total.Count));
        Advance(15);
        Assert.Equal((1, 1001), (Read().Recent.Count, Read().Total.Count));
        Assert.InRange(Read().Recent.P99!.Value, 0.0009, 0.0011);
        Advance(600);
        Assert.Equal((0, null, 1001), (Read().Recent.Count, Read().Recent.P99, Read().Total.Count));
    }

    [Fact]
    public void Measurements_of_another_service_in_the_same_process_are_not_counted()
    {
        using var services = new ServiceCollection().AddMetrics().BuildServiceProvider();
        using var others = new ServiceCollection().AddMetrics().BuildServiceProvider();
        using var measurements = new Measurements(services.GetRequiredService<IMeterFactory>(), TimeProvider.System);
        services.GetRequiredService<IMeterFactory>().Create("CachingApi.Test").CreateCounter<long>("some").Add(2);
        others.GetRequiredService<IMeterFactory>().Create("CachingApi.Test").CreateCounter<long>("some").Add(5);

        Assert.Equal(2, Assert.Single(measurements.Read()).Value);
    }
}
