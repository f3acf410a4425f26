using System.Net;
using System.Net.Http.Json;
using CachingApi.Caching;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using StackExchange.Redis;

namespace CachingApi.Tests.Caching;

/// <summary>The cache's Redis fails; sessions are on another one.</summary>
public sealed class RedisDownTests(TestServers servers)
{
    [Theory]
    [InlineData("killed")]
    [InlineData("frozen")]
    public async Task Requests_go_on_while_redis_is_away_and_it_is_used_again_when_it_is_back(string fault)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");

        // The fault begins in the middle of the requests.
        var statuses = new List<HttpStatusCode>();
        var readers = Enumerable.Range(0, 4).Select(_ => ReadAsync(client, user.Id, 50, statuses)).ToArray();
        await (fault == "killed" ? redis.KillAsync() : redis.PauseAsync());
        await Task.WhenAll(readers);
        Assert.All(statuses, status => Assert.Equal(HttpStatusCode.OK, status));

        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/users?limit=5")).StatusCode);
        Assert.Equal(HttpStatusCode.Created, (await CreateAsync(api)).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await UpdateAsync(client, user, "While it was away")).StatusCode);
        var away = await client.GetAsync($"/users/{user.Id}");
        Assert.Equal("CachingApi; fwd=miss; detail=redis-unavailable", away.CacheStatus());
        Assert.Equal("While it was away", (await away.Content.ReadFromJsonAsync<User>())!.DisplayName);
        await Eventually.TrueAsync(async () => await api.MetricAsync("cache_circuit_open") == 1);
        var ready = await api.Anonymous.GetAsync("/health/ready");
        Assert.Equal(HttpStatusCode.OK, ready.StatusCode);
        Assert.Equal("degraded", (await ready.JsonAsync()).GetProperty("status").GetString());

        await (fault == "killed" ? redis.StartAgainAsync() : redis.ResumeAsync());

        await Eventually.TrueAsync(async () =>
        {
            var answer = await client.GetAsync($"/users/{user.Id}");
            Assert.Equal("While it was away", (await answer.Content.ReadFromJsonAsync<User>())!.DisplayName);
            return answer.CacheStatus().StartsWith("CachingApi; hit", StringComparison.Ordinal);
        });
        Assert.Equal(0, await api.MetricAsync("cache_circuit_open"));
    }

    [Fact]
    public async Task A_user_deleted_while_redis_was_away_is_gone_when_redis_is_back()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        await client.GetAsync("/users");

        await redis.PauseAsync();
        // Once the circuit is open, no command is sent: an invalidation is replayed from the queue, or lost.
        await Eventually.TrueAsync(async () =>
        {
            await client.GetAsync($"/users/{user.Id}");
            return await api.MetricAsync("cache_circuit_open") == 1;
        });
        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync($"/users/{user.Id}")).StatusCode);
        await redis.ResumeAsync();

        // An earlier read would load without Redis, and this process would then not go back to the older entry in Redis.
        await MemoryTierTests.TrustedAsync(api);
        await Eventually.TrueAsync(async () =>
        {
            var answer = await client.GetAsync($"/users/{user.Id}");
            Assert.Equal(HttpStatusCode.NotFound, answer.StatusCode);
            var list = await client.GetAsync("/users");
            Assert.DoesNotContain(user.Id.ToString(), await list.Content.ReadAsStringAsync(), StringComparison.Ordinal);
            return answer.CacheStatus().StartsWith("CachingApi; hit", StringComparison.Ordinal)
                && list.CacheStatus().StartsWith("CachingApi; hit", StringComparison.Ordinal);
        });
    }

    [Fact]
    public async Task Scripts_that_redis_has_lost_are_sent_again()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();

        await using (var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true"))
        {
            await connection.GetServers()[0].ScriptFlushAsync();
        }

        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
        Assert.StartsWith("CachingApi; hit", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
    }

    [Fact]
    public async Task Foreign_values_under_our_keys_count_as_misses_and_are_replaced()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        var key = $"{api.KeyPrefix}:{(await api.KeysAsync()).Single(key => key.EndsWith($"{user.Id}", StringComparison.Ordinal))}";

        await using var connection = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var stored = (byte[])(await connection.GetDatabase().StringGetAsync(key))!;
        byte[] ofAnotherShape = [.. stored[..CacheEntry.HeaderSize], .. "{\"id\":\"x\"}"u8];
        foreach (var foreign in new RedisValue[] { "", "{}", new string('x', 100), ofAnotherShape })
        {
            await connection.GetDatabase().StringSetAsync(key, foreign);
            Assert.Equal("CachingApi; fwd=uri-miss; stored", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
            Assert.StartsWith("CachingApi; hit", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
        }

        // A value of another Redis type, which GET refuses, for the entry and for the lease.
        await connection.GetDatabase().KeyDeleteAsync(key);
        await connection.GetDatabase().ListLeftPushAsync(key, "foreign");
        await connection.GetDatabase().ListLeftPushAsync($"{{{key}}}:lease", "foreign");
        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
        Assert.StartsWith("CachingApi; hit", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
    }

    private Task<ApiNode> StartAsync(RedisServer redis) => ApiNode.StartAsync(servers, new()
    {
        ["ConnectionStrings:Redis"] = redis.ConnectionString,
        ["ConnectionStrings:RedisState"] = servers.Redis,
        ["Cache:RedisDeadline"] = "00:00:00.200",
    });

    private static async Task ReadAsync(HttpClient client, Guid id, int times, List<HttpStatusCode> statuses)
    {
        for (var read = 0; read < times; read++)
        {
            var answer = await client.GetAsync($"/users/{id}");
            lock (statuses)
            {
                statuses.Add(answer.StatusCode);
            }
        }
    }

    private static Task<HttpResponseMessage> CreateAsync(ApiNode api) => api.Anonymous.PostAsJsonAsync(
        "/users", new { email = $"{Guid.NewGuid():N}@example.org", displayName = "Grace Hopper", password = ApiNode.Password });

    private static Task<HttpResponseMessage> UpdateAsync(HttpClient client, User user, string name) =>
        client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = name });
}
