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

/// <summary>A server that the cache rests on is another one than before: caches are cleared, once, before anything is served.</summary>
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
            await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{user.Id}")).CacheStatus().Contains("hit", StringComparison.Ordinal));
            await Eventually.TrueAsync(async () => (await client.GetAsync("/users")).CacheStatus().Contains("hit", StringComparison.Ordinal));
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

    [Fact]
    public async Task Nothing_is_served_from_redis_before_its_incarnation_is_known()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var (incarnations, tier) = (node.Services.GetRequiredService<Incarnations>(), node.Services.GetRequiredService<RedisTier>());
        await Eventually.TrueAsync(() => tier.IsTrusted);

        incarnations.ForgetRedis();
        Assert.False(tier.IsTrusted);
        Assert.Null(await tier.GenerationAsync("things", GenerationChange.None, seen: 0, [], CancellationToken.None));

        incarnations.LearnRedis(["another run"]);
        Assert.True(tier.IsTrusted);
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

        // The demoted master takes over the older entries, within the second or so that it takes to notice.
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
        await using var later = await ApiNode.StartAsync(servers, nodeOf: node, settings: new() { ["ConnectionStrings:RedisState"] = state.ConnectionString });
        using var again = await later.AdminAsync();
        await Eventually.TrueAsync(async () => await NameAsync(again, user) == await later.SqlAsync<string>($"SELECT display_name FROM users WHERE id = '{user.Id}'"));

        var acknowledged = await UpdateAsync(again, user, "Acknowledged", "invalidate");

        Assert.Equal(HttpStatusCode.OK, acknowledged.StatusCode);
        Assert.Equal("Acknowledged", await NameAsync(again, user));
    }

    [Fact]
    public async Task Of_two_writes_that_were_given_the_same_version_the_one_with_the_later_token_stays()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var engine = new Engine(node);
        var cache = new Cache<Thing>(
            "things", new() { MemoryTtl = TimeSpan.Zero }, ThingJson.Default.Thing, _ => 2, fence: thing => thing.Version);
        Task PutAsync(string name, long fence) => engine.WriteThrough.PutAsync(cache.Key("1"), new(name, fence), Moment.Now, CancellationToken.None);
        async Task<string> ReadAsync() => Engine.Read(await engine.CacheAside.GetAsync(cache.Key("1"), _ => Task.FromResult<Thing?>(new("loaded", 30)), CancellationToken.None))!.Name;

        await PutAsync("second", 20);
        await PutAsync("first", 10);
        Assert.Equal("second", await ReadAsync());

        await engine.Invalidation.InvalidateAsync(cache.Key("1"), new(2, 30), CancellationToken.None);
        await PutAsync("second", 20);
        Assert.Equal("loaded", await ReadAsync());
    }

    [Fact]
    public async Task One_restart_clears_each_cache_once_however_many_processes_notice()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var first = await ApiNode.StartAsync(servers, Settings(redis, changeCapture: false));
        await using var second = await ApiNode.StartAsync(servers, Settings(redis, changeCapture: false), nodeOf: first);
        await using var third = await ApiNode.StartAsync(servers, Settings(redis, changeCapture: false), nodeOf: first);
        ApiNode[] nodes = [first, second, third];
        await MemoryTierTests.TrustedAsync(nodes);
        var engines = nodes.Select(node => new Engine(node, versioned: false)).ToArray();
        foreach (var engine in engines)
        {
            await engine.GetAsync(new Thing("it", 0));
        }

        var before = await GenerationAsync(redis, first);
        await SaveAsync(redis);
        await redis.KillAsync();
        await Eventually.TrueAsync(() => nodes.All(node => !node.Services.GetRequiredService<RedisTier>().IsTrusted));
        await redis.StartAgainAsync();
        await using var watcher = await ConnectionMultiplexer.ConnectAsync(redis.ConnectionString);
        var clears = 0;
        await watcher.GetSubscriber().SubscribeAsync(
            RedisChannel.Literal($"{first.KeyPrefix}:backplane"),
            (_, message) =>
            {
                if (message.ToString().Contains(" 1 things ", StringComparison.Ordinal))
                {
                    Interlocked.Increment(ref clears);
                }
            });
        await MemoryTierTests.TrustedAsync(nodes);
        foreach (var engine in engines)
        {
            Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 0)))!.Name);
        }

        await Task.WhenAll(engines.Select(engine => engine.GetAsync(new Thing("never loaded", 0))));
        Assert.True(await GenerationAsync(redis, first) > before);
        Assert.InRange(clears, 0, 1); // 0 if the first process was faster than the watcher
    }

    [Theory]
    [InlineData("the cache's Redis")]
    [InlineData("the state server")]
    [InlineData("a promoted standby")]
    public async Task A_cache_moves_on_with_each_incarnation_and_only_with_the_first_process_that_sees_it(string server)
    {
        await using var node = await ApiNode.StartAsync(servers);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: node);
        Learn(node, 1);
        Learn(other, 1);
        var first = await AskAsync(node);
        Assert.Equal(first, await AskAsync(other));

        Learn(node, 2);
        var second = await AskAsync(node);
        Assert.True(second > first);
        Assert.Equal(second, await AskAsync(node));

        // The other process has not noticed yet: that changes nothing.
        Assert.Equal(second, await AskAsync(other));
        Learn(other, 2);
        Assert.Equal(second, await AskAsync(other));

        void Learn(ApiNode at, uint incarnation)
        {
            var incarnations = at.Services.GetRequiredService<Incarnations>();
            _ = server switch
            {
                "the cache's Redis" => incarnations.LearnRedis([$"{incarnation}"]),
                "the state server" => incarnations.LearnState([$"{incarnation}"]),
                _ => incarnations.LearnPostgres("7000", incarnation),
            };
        }

        static async Task<long?> AskAsync(ApiNode at)
        {
            var namespaces = at.Services.GetRequiredService<Namespaces>();
            namespaces.Forget();
            return (await namespaces.CurrentAsync("things", CancellationToken.None))!.Generation;
        }
    }

    [Fact]
    public async Task A_dependent_cache_is_cleared_once_for_each_write_by_the_writer_or_else_by_change_capture()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var (engine, namespaces) = (new Engine(node, versioned: false), node.Services.GetRequiredService<Namespaces>());
        Task FollowAsync(params Cause[] causes) => engine.Invalidation.DropUnlessCausedAsync(engine.Cache, causes, CancellationToken.None);
        async Task<long> NowAsync() => (await namespaces.CurrentAsync("things", CancellationToken.None))!.Generation!.Value;

        await engine.Invalidation.DropAllAsync(engine.Cache, new Cause("a", new(2, 20)), CancellationToken.None);
        var cleared = await NowAsync();
        await FollowAsync(new Cause("a", new(2, 20)), new Cause("a", new(1, 10)));
        Assert.Equal(cleared, await NowAsync());

        await FollowAsync(new Cause("a", new(2, 20)), new Cause("b", new(1, 0)));
        var again = await NowAsync();
        Assert.True(again > cleared);
        await FollowAsync(new Cause("b", new(1, 0)));
        Assert.Equal(again, await NowAsync());

        foreach (var later in new Cause[] { new("a", new(3, 0)), new("a", new(3, 1)) })
        {
            await FollowAsync(later);
            Assert.True(await NowAsync() > again);
            again = await NowAsync();
        }
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

    private static async Task<long> GenerationAsync(RedisServer redis, ApiNode node)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync(redis.ConnectionString);
        return (long)await connection.GetDatabase().StringGetAsync($"{node.KeyPrefix}:things:generation");
    }

    /// <summary>Until it is closed no write reaches the table.</summary>
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
