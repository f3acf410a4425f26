using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>If a server that the cache depends on is another incarnation, caches are cleared once before any entry is served.</summary>
public sealed class IncarnationTests(TestServers servers)
{
    [Fact]
    public async Task Nothing_is_served_from_redis_before_its_incarnation_is_known()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var (incarnations, tier) = (node.Services.GetRequiredService<Incarnations>(), node.Services.GetRequiredService<RedisTier>());
        await Eventually.TrueAsync(() => tier.IsTrusted);

        incarnations.ForgetRedis();
        Assert.False(tier.IsTrusted);
        Assert.Null(await tier.GenerationAsync("things", GenerationChange.None, seen: 0, [], CancellationToken.None));

        incarnations.LearnRedis(["another run"]);
        Assert.True(tier.IsTrusted);
    }

    /// <remarks>Found by a simulation: a process that was just started has served a newer value than Redis has.</remarks>
    [Fact]
    public async Task Served_revisions_are_forgotten_only_if_another_incarnation_takes_the_place_of_a_known_one()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var (cache, seen) = (new Engine(node.Services).Cache, new SeenRevisions(TimeProvider.System));
        seen.Add(cache, "1", CacheEntry.Of(new EntryKey("k"), cache, new("it", 2), TimeSpan.Zero, TimeProvider.System.GetUtcNow()));
        var incarnations = new Incarnations(seen);

        incarnations.LearnState(["first run"]);
        incarnations.LearnPostgres("system", 1);
        Assert.Equal(2, seen.Highest("things", "1").Version);

        incarnations.LearnState(["second run"]);
        Assert.Equal(0, seen.Highest("things", "1").Version);
    }

    [Fact]
    public async Task Of_two_writes_that_were_given_the_same_version_the_one_with_the_later_token_stays()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var cache = TestCache.Of(
            node.Services, "things", new() { MemoryTtl = TimeSpan.Zero }, ThingJson.Default.Thing, _ => 2, fence: thing => thing.Version);
        await engine.KnowGenerationAsync();
        Task PutAsync(string name, long fence) =>
            engine.WriteThrough.PutAsync(cache.Key("1"), new(name, fence), Moment.Now, CancellationToken.None);
        async Task<string> ReadAsync() => Engine.Read(await engine.CacheAside.GetAsync(
            cache.Key("1"), _ => Task.FromResult<Thing?>(new("loaded", 30)), null, CancellationToken.None))!.Name;

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
        await using var first = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        await using var second = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString), nodeOf: first);
        await using var third = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString), nodeOf: first);
        CacheNode[] nodes = [first, second, third];
        var engines = nodes.Select(node => new Engine(node.Services, versioned: false)).ToArray();
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
        await CacheNode.TrustedAsync(nodes);
        foreach (var engine in engines)
        {
            Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 0)))!.Name);
        }

        await Task.WhenAll(engines.Select(engine => engine.GetAsync(new Thing("never loaded", 0))));
        Assert.True(await GenerationAsync(redis, first) > before);
        Assert.InRange(clears, 0, 1); // 0 if the first process cleared the cache before the watcher subscribed
    }

    [Theory]
    [InlineData("the cache's Redis")]
    [InlineData("the state server")]
    [InlineData("a promoted standby")]
    public async Task A_cache_moves_on_with_each_incarnation_and_only_with_the_first_process_that_sees_it(string server)
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        Learn(node, 1);
        Learn(other, 1);
        var first = await AskAsync(node);
        Assert.Equal(first, await AskAsync(other));

        Learn(node, 2);
        var second = await AskAsync(node);
        Assert.True(second > first);
        Assert.Equal(second, await AskAsync(node));

        // The other process has not noticed yet, which makes no difference.
        Assert.Equal(second, await AskAsync(other));
        Learn(other, 2);
        Assert.Equal(second, await AskAsync(other));

        void Learn(CacheNode at, uint incarnation)
        {
            var incarnations = at.Services.GetRequiredService<Incarnations>();
            _ = server switch
            {
                "the cache's Redis" => incarnations.LearnRedis([$"{incarnation}"]),
                "the state server" => incarnations.LearnState([$"{incarnation}"]),
                _ => incarnations.LearnPostgres("7000", incarnation),
            };
        }

        static async Task<long?> AskAsync(CacheNode at)
        {
            var namespaces = at.Services.GetRequiredService<Namespaces>();
            namespaces.Forget();
            return (await namespaces.CurrentAsync("things", CancellationToken.None))!.Generation;
        }
    }

    [Fact]
    public async Task A_dependent_cache_is_cleared_once_for_each_write_by_the_writer_or_else_by_change_capture()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var (engine, namespaces) = (new Engine(node.Services, versioned: false), node.Services.GetRequiredService<Namespaces>());
        Task FollowAsync(params Cause[] causes) =>
            engine.Invalidation.ClearUnlessCausedAsync(engine.Cache.Name, causes, CancellationToken.None);
        async Task<long> NowAsync() => (await namespaces.CurrentAsync("things", CancellationToken.None))!.Generation!.Value;

        await engine.Invalidation.ClearAsync(engine.Cache.Name, new Cause("a", new(2, 20)), CancellationToken.None);
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

    private static async Task SaveAsync(RedisServer redis)
    {
        await using var admin = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await admin.GetServers()[0].ExecuteAsync("SAVE");
    }

    private static async Task<long> GenerationAsync(RedisServer redis, CacheNode node)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync(redis.ConnectionString);
        return (long)await connection.GetDatabase().StringGetAsync($"{node.KeyPrefix}:things:generation");
    }
}
