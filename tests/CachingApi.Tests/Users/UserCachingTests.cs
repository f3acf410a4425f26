using System.Net;
using System.Net.Http.Json;
using CachingApi.Tests.Api;
using CachingApi.Tests.Caching;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Tests.Users;

public sealed class UserCachingTests(TestServers servers)
{
    [Fact]
    public async Task A_sequence_of_reads_is_one_miss_then_hits()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();

        for (var read = 0; read < 10; read++)
        {
            var answer = await client.GetAsync($"/users/{user.Id}");
            Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
            Assert.StartsWith(read == 0 ? "CachingApi; fwd=uri-miss; stored" : "CachingApi; hit; ttl=", answer.CacheStatus());
        }

        Assert.Equal(1, await api.MetricAsync("cache_requests_total", ("cache", "users"), ("tier", "redis"), ("result", "miss")));
        Assert.Equal(9, await api.MetricAsync("cache_requests_total", ("cache", "users"), ("tier", "redis"), ("result", "hit")));
        Assert.Equal(1, await api.MetricAsync("cache_loads_total", ("cache", "users"), ("outcome", "loaded")));
    }

    [Fact]
    public async Task An_entry_expires_within_its_ttl_and_is_loaded_again()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var api = await ApiNode.StartAsync(
            servers,
            new()
            {
                ["Cache:Users:Ttl"] = "00:10:00",
                ["Cache:Users:Jitter"] = "0.1",
                ["Cache:SoftTimeout"] = "00:00:10", // a slow machine answers with the loaded value, too
            },
            time: time);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");

        time.Advance(TimeSpan.FromMinutes(8.9));
        var held = await client.GetAsync($"/users/{user.Id}");
        Assert.StartsWith("CachingApi; hit", held.CacheStatus());
        Assert.Equal("534", held.Header("Age"));

        time.Advance(TimeSpan.FromMinutes(1.2));
        var loaded = await client.GetAsync($"/users/{user.Id}");
        Assert.Equal("CachingApi; fwd=stale; stored", loaded.CacheStatus());
        Assert.Equal("0", loaded.Header("Age"));
    }

    [Theory]
    [InlineData("write-through", "CachingApi; hit")]
    [InlineData("invalidate", "CachingApi; fwd=uri-miss; stored")]
    [InlineData(null, "CachingApi; hit")]
    public async Task An_update_is_seen_by_the_next_read_on_every_node(string? strategy, string status)
    {
        var api = await servers.SharedApiAsync();
        await using var other = await ApiNode.StartAsync(servers, nodeOf: api);
        var user = await api.CreateUserAsync();
        using var here = await api.AdminAsync();
        using var there = await other.AdminAsync();
        await here.GetAsync($"/users/{user.Id}");
        await there.GetAsync($"/users/{user.Id}");

        var updated = await here.PutAsJsonAsync(
            $"/users/{user.Id}{(strategy is null ? "" : $"?strategy={strategy}")}", new { email = user.Email, displayName = "Countess" });
        Assert.Equal("\"v2\"", updated.ETag().Tag);

        var read = await there.GetAsync($"/users/{user.Id}");
        Assert.StartsWith(status, read.CacheStatus());
        Assert.Equal("\"v2\"", read.ETag().Tag);
        Assert.Equal("Countess", (await read.Content.ReadFromJsonAsync<User>())!.DisplayName);
        Assert.Equal("Countess", (await here.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName);
    }

    [Fact]
    public async Task The_default_strategy_is_configuration()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Cache:Users:WriteStrategy"] = "invalidate" });
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");

        await client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = "Countess" });

        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
    }

    [Fact]
    public async Task Not_found_is_cached_briefly()
    {
        await using var api = await ApiNode.StartAsync(servers);
        await MemoryTierTests.TrustedAsync(api);
        using var client = await api.AdminAsync();
        var id = Guid.CreateVersion7(TimeProvider.System.GetUtcNow());

        var first = await client.GetAsync($"/users/{id}");
        var second = await client.GetAsync($"/users/{id}");

        Assert.Equal(HttpStatusCode.NotFound, first.StatusCode);
        Assert.Equal("CachingApi; fwd=uri-miss; stored", first.CacheStatus());
        Assert.Equal(HttpStatusCode.NotFound, second.StatusCode);
        Assert.Matches("^CachingApi; hit; ttl=2[6-9]; detail=redis$", second.CacheStatus());
        Assert.Equal(1, await api.MetricAsync("cache_loads_total", ("cache", "users"), ("outcome", "not_found")));
        Assert.Equal(1, await api.MetricAsync("cache_requests_total", ("cache", "users"), ("tier", "redis"), ("result", "negative")));
    }

    [Fact]
    public async Task A_deleted_user_is_gone_on_every_node()
    {
        var api = await servers.SharedApiAsync();
        await using var other = await ApiNode.StartAsync(servers, nodeOf: api);
        var user = await api.CreateUserAsync();
        using var here = await api.AdminAsync();
        using var there = await other.AdminAsync();
        await there.GetAsync($"/users/{user.Id}");

        Assert.Equal(HttpStatusCode.NoContent, (await here.DeleteAsync($"/users/{user.Id}")).StatusCode);

        Assert.Equal(HttpStatusCode.NotFound, (await there.GetAsync($"/users/{user.Id}")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await here.DeleteAsync($"/users/{user.Id}")).StatusCode);
    }

    [Fact]
    public async Task Every_change_of_a_user_is_in_the_next_list()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var client = await api.AdminAsync();

        async Task<string> ListAsync() => await client.GetStringAsync("/users");
        Assert.DoesNotContain("Grace", await ListAsync(), StringComparison.Ordinal);
        Assert.StartsWith("CachingApi; hit", (await client.GetAsync("/users")).CacheStatus());

        var user = await api.CreateUserAsync("Grace Hopper");
        Assert.Contains("Grace Hopper", await ListAsync(), StringComparison.Ordinal);

        await client.PutAsJsonAsync($"/users/{user.Id}?strategy=invalidate", new { email = user.Email, displayName = "Admiral" });
        Assert.Contains("Admiral", await ListAsync(), StringComparison.Ordinal);

        await client.DeleteAsync($"/users/{user.Id}");
        Assert.DoesNotContain("Admiral", await ListAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Keys_hold_ids_only_and_every_entry_expires()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        await client.GetAsync("/users?limit=7");

        var keys = await api.KeysAsync();
        Assert.Contains(keys, key => System.Text.RegularExpressions.Regex.IsMatch(key, $@"^users:g\d+:{user.Id}$"));
        Assert.Contains(keys, key => System.Text.RegularExpressions.Regex.IsMatch(key, @"^user-lists:g\d+:7:$"));
        Assert.DoesNotContain(keys, key => key.Contains('@', StringComparison.Ordinal));

        await using var redis = await StackExchange.Redis.ConnectionMultiplexer.ConnectAsync(servers.Redis);
        foreach (var key in keys.Where(
            key => !key.EndsWith(":generation", StringComparison.Ordinal) && !key.StartsWith("{write-behind}:", StringComparison.Ordinal)))
        {
            Assert.NotNull(await redis.GetDatabase().KeyTimeToLiveAsync($"{api.KeyPrefix}:{key}"));
        }
    }
}
