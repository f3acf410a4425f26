using System.Net;
using System.Net.Http.Json;
using CachingApi.Caching;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;
using StackExchange.Redis;

namespace CachingApi.Tests.Caching;

/// <summary>The consistency checker finds entries that stay wrong, in the right tier, and reports no others.</summary>
public sealed class ConsistencyCheckerTests(TestServers servers)
{
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
    public async Task Each_write_strategy_leaves_the_content_of_the_source(string strategy, HttpStatusCode status)
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
            var written = await admin.PutAsJsonAsync(
                $"/users/{user.Id}?strategy={strategy}", new { email = user.Email, displayName = "Countess" });
            tag = written.ETag().Tag;
            return written.StatusCode == status;
        }, "the queue to accept writes");
        await Eventually.TrueAsync(
            async () => await api.SqlAsync<string>($"SELECT format('\"v%s\"', version) FROM users WHERE id = '{user.Id}'") == tag,
            "the row");
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
            key,
            api.Services.GetRequiredService<Cache<User>>(),
            user with { DisplayName = "Tampered" },
            TimeSpan.Zero,
            TimeProvider.System.GetUtcNow()));

        for (var comparison = 1; comparison <= 2; comparison++)
        {
            await CompareAsync(api, "users", $"{user.Id}");
            Assert.Equal(
                (0, comparison), (await InconsistenciesAsync(api, "users", "memory"), await InconsistenciesAsync(api, "users", "redis")));
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

        Assert.Equal(
            (1, 1), (await InconsistenciesAsync(api, "user-lists", "memory"), await InconsistenciesAsync(api, "user-lists", "redis")));
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
                await Eventually.TrueAsync(
                    async () => await StalenessAsync(api, cache, tier, atMost: "0") > 0, $"{cache} in {tier} to be compared");
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
                await Eventually.TrueAsync(
                    async () => await InconsistenciesAsync(api, cache, tier) > 0, $"{cache} in {tier} to be inconsistent");
            }
        }
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

    private static Task CompareAsync(ApiNode api, string cache, string id) => api.Services.GetRequiredService<ConsistencyChecker>()
        .CompareAsync(api.Services.GetServices<Cache>().Single(declared => declared.Name == cache), id, CancellationToken.None);

    private static Task<double> InconsistenciesAsync(ApiNode api, string cache, string tier) =>
        api.MetricAsync("cache_inconsistencies_total", ("cache", cache), ("tier", tier));

    /// <summary>The number of recorded times; with <paramref name="atMost"/>, the number up to this bucket.</summary>
    private static Task<double> StalenessAsync(ApiNode api, string cache, string tier, string? atMost = null) => atMost is null
        ? api.MetricAsync("cache_staleness_seconds_count", ("cache", cache), ("tier", tier))
        : api.MetricAsync("cache_staleness_seconds_bucket", ("cache", cache), ("tier", tier), ("le", atMost));

    /// <summary>Replaces a user's entry in Redis without the service.</summary>
    private async Task ReplaceInRedisAsync(ApiNode api, string id, Func<EntryKey, CacheEntry?> entry)
    {
        var cache = api.Services.GetRequiredService<Cache<User>>();
        var namespaces = api.Services.GetRequiredService<Namespaces>();
        var key = namespaces.Key(cache, await namespaces.CurrentAsync(cache.Name, CancellationToken.None), id);
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        Assert.True(entry(key) is { } tampered
            ? await redis.GetDatabase().StringSetAsync(key.Text, tampered.Bytes, TimeSpan.FromMinutes(10))
            : await redis.GetDatabase().KeyDeleteAsync(key.Text));
    }
}
