using System.Net;
using System.Net.Http.Json;
using CachingApi.Caching;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using StackExchange.Redis;

namespace CachingApi.Tests.Caching;

/// <summary>If a server that the cache depends on is another incarnation, caches are cleared once before any entry is served.</summary>
public sealed class IncarnationTests(TestServers servers)
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Everything_restarts_and_redis_has_an_older_snapshot(bool changeCapture)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var owner = await ApiNode.StartAsync(servers, Settings(redis, changeCapture: false));
        var settings = owner.SettingsWith(new() { ["Database:ChangeCapture"] = $"{changeCapture}" });
        User user;
        await using (var first = await ApiNode.StartAsync(servers, settings))
        {
            user = await first.CreateUserAsync("Before");
            using var client = await first.AdminAsync();
            await Eventually.TrueAsync(
                async () => (await client.GetAsync($"/users/{user.Id}")).CacheStatus().Contains("hit", StringComparison.Ordinal));
            await Eventually.TrueAsync(
                async () => (await client.GetAsync("/users")).CacheStatus().Contains("hit", StringComparison.Ordinal));
            await SaveAsync(redis);
            await UpdateAsync(client, user, "After", "write-through");
            if (changeCapture)
            {
                var written = await first.SqlAsync<string>("SELECT pg_current_wal_insert_lsn()::text");
                await Eventually.TrueAsync(() => first.SqlAsync<bool>(
                    $"SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots WHERE database = current_database()"));
            }

            await redis.KillAsync();
        }

        await redis.StartAgainAsync();
        await using var second = await ApiNode.StartAsync(servers, settings);
        using var again = await second.AdminAsync();

        Assert.Equal("After", await NameAsync(again, user));
        Assert.Contains("After", await again.GetStringAsync("/users"), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_promoted_replica_that_has_older_entries_serves_none_of_them(bool masterIsKilled)
    {
        await using var master = await RedisServer.StartAsync();
        await using var replication = new FaultProxy(master.Port);
        await using var replica = await RedisServer.StartAsync("--replicaof", "127.0.0.1", $"{replication.Port}");
        await using var admin = await ConnectionMultiplexer.ConnectAsync($"{replica.ConnectionString},allowAdmin=true");
        var promoted = admin.GetServers()[0];
        await using var node = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] =
                $"{master.ConnectionString},{replica.ConnectionString}{(masterIsKilled ? ",configCheckSeconds=1" : "")}",
            ["ConnectionStrings:RedisState"] = servers.Redis,
            ["Database:ChangeCapture"] = "false",
        });
        var user = await node.CreateUserAsync("Before");
        using var client = await node.AdminAsync();
        await Eventually.TrueAsync(
            async () => (await client.GetAsync($"/users/{user.Id}")).CacheStatus().Contains("hit", StringComparison.Ordinal));
        await Eventually.TrueAsync(() => promoted.Keys(pattern: $"*{user.Id}").Any());

        replication.Swallows = true;
        Assert.Equal(HttpStatusCode.OK, (await UpdateAsync(client, user, "After", "write-through")).StatusCode);
        await promoted.ExecuteAsync("REPLICAOF", "NO", "ONE");
        if (masterIsKilled)
        {
            await master.KillAsync();
        }
        else
        {
            // No connection is lost.
            await using var demoted = await ConnectionMultiplexer.ConnectAsync($"{master.ConnectionString},allowAdmin=true");
            await demoted.GetServers()[0].ExecuteAsync("REPLICAOF", "127.0.0.1", $"{replica.Port}");
        }

        // The demoted master loads the older entries from the new one, after the second or so that it takes to notice.
        var tier = node.Services.GetRequiredService<RedisTier>();
        var refused = false;
        await Eventually.TrueAsync(
            async () =>
            {
                refused |= !tier.IsTrusted;
                var answer = await client.GetAsync($"/users/{user.Id}");
                return refused && answer.CacheStatus().Contains("detail=redis", StringComparison.Ordinal) && tier.IsTrusted;
            },
            "the promoted replica to be in use");
        Assert.Equal("After", await NameAsync(client, user));
    }

    [Fact]
    public async Task A_version_that_the_state_server_lost_does_not_hide_a_later_commit_of_the_same_version()
    {
        await using var state = await RedisServer.StartAsync();
        await using var node = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = state.ConnectionString });
        var user = await node.CreateUserAsync("Before");
        using (var client = await node.AdminAsync())
        {
            await client.GetAsync($"/users/{user.Id}");
            await using var block = await LockUsersAsync(node);
            Assert.Equal(HttpStatusCode.Accepted, (await UpdateAsync(client, user, "Lost", "write-behind")).StatusCode);
            await state.KillAsync();
        }

        await state.StartAgainAsync();
        await using var later = await ApiNode.StartAsync(
            servers, nodeOf: node, settings: new() { ["ConnectionStrings:RedisState"] = state.ConnectionString });
        using var again = await later.AdminAsync();
        await Eventually.TrueAsync(async () =>
            await NameAsync(again, user) == await later.SqlAsync<string>($"SELECT display_name FROM users WHERE id = '{user.Id}'"));

        var acknowledged = await UpdateAsync(again, user, "Acknowledged", "invalidate");

        Assert.Equal(HttpStatusCode.OK, acknowledged.StatusCode);
        Assert.Equal("Acknowledged", await NameAsync(again, user));
    }

    private Dictionary<string, string> Settings(RedisServer redis, bool changeCapture) => new()
    {
        ["ConnectionStrings:Redis"] = redis.ConnectionString,
        ["ConnectionStrings:RedisState"] = servers.Redis,
        ["Database:ChangeCapture"] = $"{changeCapture}",
    };

    private static async Task SaveAsync(RedisServer redis)
    {
        await using var admin = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await admin.GetServers()[0].ExecuteAsync("SAVE");
    }

    /// <summary>Until the connection is closed, no write reaches the table.</summary>
    private static async Task<NpgsqlConnection> LockUsersAsync(ApiNode node)
    {
        var connection = new NpgsqlConnection($"{node.Database};Pooling=false");
        await connection.OpenAsync();
        await using var block = new NpgsqlCommand("BEGIN; LOCK TABLE users IN EXCLUSIVE MODE", connection);
        await block.ExecuteNonQueryAsync();
        return connection;
    }

    private static Task<HttpResponseMessage> UpdateAsync(HttpClient client, User user, string name, string strategy) =>
        client.PutAsJsonAsync($"/users/{user.Id}?strategy={strategy}", new { email = user.Email, displayName = name });

    private static async Task<string> NameAsync(HttpClient client, User user) =>
        (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName;
}
