using System.Globalization;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Npgsql;

namespace CachingApi.Tests.Caching;

/// <summary>Every committed change of the database reaches every cache, also one that another client made.</summary>
public sealed class ChangeCaptureTests(TestServers servers)
{
    [Fact]
    public async Task A_row_changed_in_sql_is_seen_by_every_node_and_one_of_them_is_the_leader()
    {
        await using var first = await ApiNode.StartAsync(servers, Settings());
        await using var second = await ApiNode.StartAsync(servers, Settings(), nodeOf: first);
        await FollowedAsync(first, second);
        var user = await first.CreateUserAsync("Before");
        var clients = new[] { await first.AdminAsync(), await second.AdminAsync() };
        foreach (var client in clients)
        {
            Assert.Equal("Before", await NameAsync(client, user));
            Assert.Contains("Before", await client.GetStringAsync("/users"), StringComparison.Ordinal);
        }

        await RenameAsync(first, user, "After");

        foreach (var client in clients)
        {
            await Eventually.TrueAsync(async () => await NameAsync(client, user) == "After");
            await Eventually.TrueAsync(async () => (await client.GetStringAsync("/users")).Contains("After", StringComparison.Ordinal));
        }

        var changed = (await clients[1].GetFromJsonAsync<User>($"/users/{user.Id}"))!;
        Assert.Equal(user.Version + 1, changed.Version);
        Assert.True(changed.UpdatedAt > user.UpdatedAt);
        Assert.Equal(1, await first.MetricAsync("change_capture_follows") + await second.MetricAsync("change_capture_follows"));
        Assert.True(
            await first.MetricAsync("change_capture_changes_total", ("table", "users"))
            + await second.MetricAsync("change_capture_changes_total", ("table", "users")) > 0);
    }

    [Theory]
    [InlineData("DELETE FROM users WHERE id = '{0}'", HttpStatusCode.NotFound, HttpStatusCode.OK)]
    [InlineData(
        "CREATE TEMP TABLE kept AS SELECT * FROM users WHERE role = 'admin'; TRUNCATE users; INSERT INTO users SELECT * FROM kept",
        HttpStatusCode.NotFound, HttpStatusCode.NotFound)]
    [InlineData("UPDATE users SET id = gen_random_uuid() WHERE id = '{0}'", HttpStatusCode.NotFound, HttpStatusCode.OK)]
    public async Task A_row_removed_in_sql_is_gone_from_the_cache(string sql, HttpStatusCode one, HttpStatusCode other)
    {
        await using var api = await ApiNode.StartAsync(servers, Settings());
        await FollowedAsync(api);
        var users = new[] { await api.CreateUserAsync(), await api.CreateUserAsync() };
        using var client = await api.AdminAsync();
        foreach (var user in users)
        {
            Assert.Equal(HttpStatusCode.OK, (await client.GetAsync($"/users/{user.Id}")).StatusCode);
        }

        await api.SqlAsync(string.Format(CultureInfo.InvariantCulture, sql, users[0].Id));

        await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{users[0].Id}")).StatusCode == one);
        await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{users[1].Id}")).StatusCode == other);
    }

    [Fact]
    public async Task A_user_deleted_in_sql_has_no_sessions()
    {
        await using var api = await ApiNode.StartAsync(servers, Settings());
        await FollowedAsync(api);
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/sessions/current")).StatusCode);

        await api.SqlAsync($"DELETE FROM users WHERE id = '{user.Id}'");

        await Eventually.TrueAsync(async () => (await client.GetAsync("/sessions/current")).StatusCode == HttpStatusCode.Unauthorized);
    }

    [Fact]
    public async Task A_row_inserted_in_sql_ends_a_cached_not_found()
    {
        await using var api = await ApiNode.StartAsync(servers, new(Settings()) { ["Cache:Users:NegativeTtl"] = "01:00:00" });
        await FollowedAsync(api);
        using var client = await api.AdminAsync();
        var id = Guid.NewGuid();
        Assert.Equal(HttpStatusCode.NotFound, (await client.GetAsync($"/users/{id}")).StatusCode);

        await api.SqlAsync($"INSERT INTO users VALUES ('{id}', 'a@b.example', 'a@b.example', 'Ada', 'user', '', 1, now(), now())");

        await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{id}")).StatusCode == HttpStatusCode.OK);
    }

    [Fact]
    public async Task A_change_of_very_many_rows_clears_the_cache_instead_of_leaving_a_tombstone_for_each()
    {
        await using var api = await ApiNode.StartAsync(servers, Settings());
        await FollowedAsync(api);
        var user = await api.CreateUserAsync("Before");
        using var client = await api.AdminAsync();
        Assert.Equal("Before", await NameAsync(client, user));

        await api.SqlAsync(
            "INSERT INTO users SELECT gen_random_uuid(), n::text, n::text, 'Many', 'user', '', 1, now(), now() "
            + "FROM generate_series(1, 30000) AS n");
        await api.SqlAsync("UPDATE users SET display_name = 'After'");

        await Eventually.TrueAsync(async () => await NameAsync(client, user) == "After");
        await Eventually.TrueAsync(async () => await api.MetricAsync("change_capture_changes_total") >= 60_000);
        Assert.InRange((await api.KeysAsync()).Length, 1, 30_000);
    }

    /// <summary>CACHINGAPI_KILLS sets the number of repetitions.</summary>
    [Fact]
    public async Task A_writer_killed_between_its_commit_and_the_invalidation_leaves_nothing_stale()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var api = await ApiNode.StartAsync(servers, Settings(redis));
        await FollowedAsync(api);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        var kills = int.TryParse(Environment.GetEnvironmentVariable("CACHINGAPI_KILLS"), CultureInfo.InvariantCulture, out var given)
            ? given
            : 2;

        for (var kill = 1; kill <= kills; kill++)
        {
            using var writer = await ApiProcess.StartAsync(
                api.SettingsWith(new() { ["ConnectionStrings:Redis"] = proxy.ConnectionString }));
            await WriteAndDieAsync(writer, proxy, api, client, user, $"Number {kill}");

            await Eventually.TrueAsync(async () => await NameAsync(client, user) == $"Number {kill}");
        }
    }

    [Fact]
    public async Task A_killed_leader_is_replaced_by_another_that_continues_at_its_position()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var reader = await ApiNode.StartAsync(servers, Settings(redis, follows: false));
        var user = await reader.CreateUserAsync("Before");
        using var client = await reader.AdminAsync();
        using var writer = await ApiProcess.StartAsync(
            reader.SettingsWith(new() { ["ConnectionStrings:Redis"] = proxy.ConnectionString, ["Database:ChangeCapture"] = "true" }));
        await Eventually.TrueAsync(async () => await writer.Client.MetricAsync("change_capture_follows") == 1);
        Assert.Equal("Before", await NameAsync(client, user));

        await using var other = await ApiNode.StartAsync(servers, Settings(redis), nodeOf: reader);
        await WriteAndDieAsync(writer, proxy, reader, client, user, "After");

        await Eventually.TrueAsync(async () => await NameAsync(client, user) == "After");
        await FollowedAsync(other);
    }

    [Fact]
    public async Task No_change_is_skipped_while_the_service_redis_and_postgres_come_and_go()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var postgres = await PostgresServer.StartDurableAsync();
        var settings = Settings(redis);
        settings["ConnectionStrings:Postgres"] = postgres.ConnectionString;
        await using var reader = await ApiNode.StartAsync(servers, new(settings) { ["Database:ChangeCapture"] = "false" });
        var follower = await ApiNode.StartAsync(servers, settings, nodeOf: reader);
        var users = new List<User>();
        for (var number = 0; number < 5; number++)
        {
            users.Add(await reader.CreateUserAsync());
        }

        using var client = await reader.AdminAsync();
        var random = new Random(1);
        var change = 0;
        async Task ChangeAsync(int times)
        {
            for (; times > 0; times--)
            {
                await RenameAsync(reader, users[random.Next(users.Count)], $"{change++}");
            }
        }

        async Task SeenAsync()
        {
            foreach (var user in users)
            {
                var name = await reader.SqlAsync<string>($"SELECT display_name FROM users WHERE id = '{user.Id}'");
                await Eventually.TrueAsync(async () =>
                {
                    var answer = await client.GetAsync($"/users/{user.Id}");
                    return answer.IsSuccessStatusCode && (await answer.Content.ReadFromJsonAsync<User>())!.DisplayName == name;
                }, $"{name} to be seen");
            }
        }

        await FollowedAsync(follower);
        await ChangeAsync(10);
        await SeenAsync();

        // The service is away.
        await follower.DisposeAsync();
        await ChangeAsync(10);
        follower = await ApiNode.StartAsync(servers, settings, nodeOf: reader);
        await SeenAsync();

        // Redis is away.
        await redis.PauseAsync();
        await ChangeAsync(10);
        await redis.ResumeAsync();
        await SeenAsync();

        // PostgreSQL restarts, and does not wait for the leader to disconnect.
        await ChangeAsync(10);
        await postgres.StopAsync();
        await postgres.StartAgainAsync();
        NpgsqlConnection.ClearAllPools();
        await ChangeAsync(10);
        await SeenAsync();

        // PostgreSQL crashes.
        await ChangeAsync(10);
        await postgres.KillAsync();
        await postgres.StartAgainAsync();
        NpgsqlConnection.ClearAllPools();
        await ChangeAsync(10);
        await SeenAsync();

        await follower.DisposeAsync();
        NpgsqlConnection.ClearAllPools();
    }

    [Fact]
    public async Task The_position_stays_while_redis_is_away_and_moves_on_when_nothing_is_changed()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, Settings(redis));
        await FollowedAsync(api);
        var user = await api.CreateUserAsync();
        Task<bool> IsConfirmedAsync(string position) =>
            api.SqlAsync<bool>($"SELECT confirmed_flush_lsn >= '{position}' FROM pg_replication_slots WHERE database = current_database()");
        Task<string?> PositionAsync() => api.SqlAsync<string>("SELECT pg_current_wal_insert_lsn()::text");

        // A write to another table; if the position did not move on, the slot would keep all of that WAL.
        await api.SqlAsync("CREATE TABLE other AS SELECT generate_series(1, 1000)");
        var elsewhere = await PositionAsync();
        await Eventually.TrueAsync(() => IsConfirmedAsync(elsewhere!));

        await redis.PauseAsync();
        await RenameAsync(api, user, "While it was away");
        var change = await PositionAsync();
        await Eventually.TrueAsync(async () => await api.MetricAsync("change_capture_follows") == 0, "the slot to be given back");
        Assert.False(await IsConfirmedAsync(change!));

        await redis.ResumeAsync();
        await Eventually.TrueAsync(() => IsConfirmedAsync(change!));
    }

    [Theory]
    [InlineData("there is no slot")]
    [InlineData("the leader made the slot and died before it cleared the caches")]
    [InlineData("the slot was lost")]
    [InlineData("Redis is behind the slot")]
    [InlineData("a standby was promoted")]
    public async Task Changes_that_may_have_been_missed_clear_all_caches(string why)
    {
        await using var postgres = await PostgresServer.StartAsync("max_slot_wal_keep_size=1MB");
        await using var reader = await ApiNode.StartAsync(
            servers,
            new(Settings(follows: false))
            {
                ["ConnectionStrings:Postgres"] = postgres.ConnectionString,
                ["Serilog:MinimumLevel:Default"] = "Warning",
            });
        var user = await reader.CreateUserAsync("Before");
        using var client = await reader.AdminAsync();
        Dictionary<string, string> follows = new()
        {
            ["Database:ChangeCapture"] = "true",
            ["Serilog:MinimumLevel:Default"] = "Information",
        };
        if (why is "the slot was lost" or "Redis is behind the slot" or "a standby was promoted")
        {
            await using (var earlier = await ApiNode.StartAsync(servers, follows, nodeOf: reader))
            {
                await FollowedAsync(earlier);
            }

            await RenameAsync(reader, user, "Before");
        }

        if (why is "Redis is behind the slot" or "a standby was promoted")
        {
            // As if another process had read this change from the slot, and Redis had lost it: the slot will not send it again.
            await Eventually.TrueAsync(async () => !await reader.SqlAsync<bool>("SELECT active FROM pg_replication_slots"));
        }

        Assert.Equal("Before", await NameAsync(client, user));
        await RenameAsync(reader, user, "After");
        Assert.Equal("Before", await NameAsync(client, user));
        switch (why)
        {
            case "the leader made the slot and died before it cleared the caches":
                await reader.SqlAsync(
                    $"SELECT pg_create_logical_replication_slot('{reader.KeyPrefix.Replace('-', '_')}_' || oid, 'pgoutput') "
                    + "FROM pg_database WHERE datname = current_database()");
                break;
            case "Redis is behind the slot":
                await AdvanceSlotAsync(reader);
                break;
            case "a standby was promoted":
                await AdvanceSlotAsync(reader);
                await MovePositionsAsync(reader, position => $"{position.Split('/')[0]}/{uint.MaxValue:x8}/{ulong.MaxValue:x16}");
                break;
            case "the slot was lost":
                for (var segment = 0; segment < 4; segment++)
                {
                    await reader.SqlAsync("SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()");
                }

                await reader.SqlAsync("CHECKPOINT");
                Assert.Equal("lost", await reader.SqlAsync<string>("SELECT wal_status FROM pg_replication_slots"));
                break;
        }

        await using var follower = await ApiNode.StartAsync(servers, follows, nodeOf: reader);

        await Eventually.TrueAsync(async () => await NameAsync(client, user) == "After");
        await FollowedAsync(follower);
        Assert.Single(follower.Log, line => line.Contains("the caches of its tables are cleared", StringComparison.Ordinal));
        Assert.Equal(
            why == "the slot was lost", follower.Log.Any(line => line.Contains("max_slot_wal_keep_size", StringComparison.Ordinal)));
        NpgsqlConnection.ClearAllPools();
    }

    [Fact]
    public async Task A_server_that_does_not_bound_its_slots_gets_one_that_ends_with_the_process()
    {
        await using var postgres = await PostgresServer.StartAsync("max_slot_wal_keep_size=-1");
        var settings = Settings();
        settings["ConnectionStrings:Postgres"] = postgres.ConnectionString;
        await using (var api = await ApiNode.StartAsync(servers, settings))
        {
            await FollowedAsync(api);
            var user = await api.CreateUserAsync("Before");
            using var client = await api.AdminAsync();
            Assert.Equal("Before", await NameAsync(client, user));
            await RenameAsync(api, user, "After");
            await Eventually.TrueAsync(async () => await NameAsync(client, user) == "After");
        }

        await using var data = NpgsqlDataSource.Create(postgres.ConnectionString);
        await using var count = data.CreateCommand("SELECT count(*) FROM pg_replication_slots");
        await Eventually.TrueAsync(async () => (long)(await count.ExecuteScalarAsync())! == 0);
    }

    [Fact]
    public async Task Without_logical_wal_one_line_reports_that_and_the_rest_works()
    {
        await using var postgres = await PostgresServer.StartAsync("wal_level=replica");
        await using (var api = await ApiNode.StartAsync(servers, new(Settings())
        {
            ["ConnectionStrings:Postgres"] = postgres.ConnectionString,
            ["Serilog:MinimumLevel:Default"] = "Warning",
        }))
        {
            var user = await api.CreateUserAsync("Before");
            using var client = await api.AdminAsync();
            await client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = "After" });
            Assert.Equal("After", await NameAsync(client, user));

            bool SaysSo(string line) => line.Contains("wal_level=logical", StringComparison.Ordinal);
            await Eventually.TrueAsync(() => api.Log.Any(SaysSo));
            Assert.Single(api.Log, SaysSo);
        }

        NpgsqlConnection.ClearAllPools();
    }

    private static Dictionary<string, string> Settings(bool follows = true) => new()
    {
        ["Database:ChangeCapture"] = follows ? "true" : "false",
        ["Cache:Users:MemoryTtl"] = "00:10:00",
        ["Cache:UserLists:MemoryTtl"] = "00:10:00",
    };

    private Dictionary<string, string> Settings(RedisServer redis, bool follows = true) => new(Settings(follows))
    {
        ["ConnectionStrings:Redis"] = redis.ConnectionString,
        ["ConnectionStrings:RedisState"] = servers.Redis,
    };

    private static Task FollowedAsync(params ApiNode[] nodes) => Eventually.TrueAsync(async () =>
    {
        foreach (var node in nodes)
        {
            if (await node.MetricAsync("change_capture_follows") == 1)
            {
                return true;
            }
        }

        return false;
    }, "a node to follow the database");

    /// <summary>Changes the row as a user of psql would.</summary>
    private static Task RenameAsync(ApiNode api, User user, string name) =>
        api.SqlAsync($"UPDATE users SET display_name = '{name}' WHERE id = '{user.Id}'");

    private static async Task<string> NameAsync(HttpClient client, User user) =>
        (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName;

    /// <summary>The writer commits, its invalidation does not reach Redis, and the writer is killed before it has answered.</summary>
    private static async Task WriteAndDieAsync(
        ApiProcess writer, FaultProxy proxy, ApiNode database, HttpClient admin, User user, string name)
    {
        writer.Client.DefaultRequestHeaders.Authorization = admin.DefaultRequestHeaders.Authorization;
        Assert.NotEqual(name, await NameAsync(writer.Client, user));
        Assert.NotEqual(name, await NameAsync(admin, user));

        proxy.Swallows = true;
        var answer = writer.Client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = name });
        await Eventually.TrueAsync(
            async () => await database.SqlAsync<string>($"SELECT display_name FROM users WHERE id = '{user.Id}'") == name);
        Assert.False(answer.IsCompleted);
        await writer.KillAsync();
        await Assert.ThrowsAsync<HttpRequestException>(() => answer);
        proxy.Swallows = false;
    }

    /// <summary>Confirms every change until now, and waits for changes that are not on the disk yet.</summary>
    private static async Task AdvanceSlotAsync(ApiNode node)
    {
        var written = await node.SqlAsync<string>("SELECT pg_current_wal_insert_lsn()::text");
        await Eventually.TrueAsync(async () =>
        {
            await node.SqlAsync("SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots");
            return await node.SqlAsync<bool>($"SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots");
        });
    }

    /// <summary>Changes the position that Redis keeps, on every shard.</summary>
    private async Task MovePositionsAsync(ApiNode node, Func<string, string> moved)
    {
        await using var connection = await StackExchange.Redis.ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var keys = (await node.KeysAsync()).Where(key => key.StartsWith("change-position", StringComparison.Ordinal)).ToArray();
        Assert.NotEmpty(keys);
        foreach (var key in keys)
        {
            var database = connection.GetDatabase();
            var position = (string?)await database.StringGetAsync($"{node.KeyPrefix}:{key}");
            await database.StringSetAsync($"{node.KeyPrefix}:{key}", moved(position!));
        }
    }
}
