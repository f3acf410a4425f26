using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Time.Testing;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

public sealed class NamespaceTests(TestServers servers)
{
    [Fact]
    public async Task A_new_generation_drops_every_entry_of_a_cache_and_of_no_other()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var another = TestCache.Of(node.Services, "others", new() { MemoryTtl = TimeSpan.Zero }, ThingJson.Default.Thing);
        async Task<CacheResult> OtherAsync() => await engine.CacheAside.GetAsync(
            another.Key("1"), _ => Task.FromResult<Thing?>(new("other", 1)), null, CancellationToken.None);
        await OtherAsync();
        await engine.GetAsync(new Thing("old", 1), "1");
        await engine.GetAsync(new Thing("old", 1), "2");

        await engine.Invalidation.ClearAsync(engine.Cache.Name, cause: null, CancellationToken.None);

        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 1), "1"))!.Name);
        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 1), "2"))!.Name);
        Assert.Equal(CacheOutcome.RedisHit, (await OtherAsync()).Outcome);
    }

    [Fact]
    public async Task A_fill_of_the_old_generation_that_is_under_way_is_never_seen()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, versioned: false);
        var slow = new SlowLoad(() => new("old", 0));

        var reader = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        await engine.Invalidation.ClearAsync(engine.Cache.Name, cause: null, CancellationToken.None);
        slow.GoOn();
        await reader;

        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 0)))!.Name);
    }

    [Fact]
    public async Task Another_node_sees_a_new_generation_within_a_second()
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        var (here, there) = (new Engine(node.Services), new Engine(other.Services));
        await there.GetAsync(new Thing("old", 0));

        await here.Invalidation.ClearAsync(here.Cache.Name, cause: null, CancellationToken.None);

        await Eventually.TrueAsync(async () => Engine.Read(await there.GetAsync(new Thing("new", 0)))!.Name == "new");
    }

    [Fact]
    public async Task Without_the_backplane_a_generation_is_used_for_a_second_and_then_asked_for_again()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var (redis, tier, time) = (node.Services.GetRequiredService<RedisConnections>(), node.Services.GetRequiredService<RedisTier>(),
            new FakeTimeProvider());
        var namespaces = new Namespaces(redis, tier, new Backplane(redis, node.Services.GetRequiredService<CircuitBreaker>(),
            NullLogger<Backplane>.Instance), time); // it was never started
        async Task<long> CurrentAsync() => (await namespaces.CurrentAsync("things", CancellationToken.None))!.Generation!.Value;
        var before = await CurrentAsync();

        await new Engine(node.Services).Invalidation.ClearAsync("things", cause: null, CancellationToken.None);

        time.Advance(TimeSpan.FromSeconds(0.9));
        Assert.Equal(before, await CurrentAsync());
        time.Advance(TimeSpan.FromSeconds(0.1));
        Assert.True(await CurrentAsync() > before);
    }

    [Fact]
    public async Task A_write_enters_the_generation_that_is_current_after_its_commit()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("old", 1));
        var key = $"{node.KeyPrefix}:things:generation";
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);

        // Another process has cleared the cache, and its message is still on the way.
        var cleared = (long)await redis.GetDatabase().StringIncrementAsync(key);
        await engine.PutAsync(engine.Key(), new("new", 2), CancellationToken.None);
        Assert.Contains($"things:g{cleared}:1", await node.KeysAsync());
        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 2)))!.Name);

        cleared = (long)await redis.GetDatabase().StringIncrementAsync(key);
        await engine.Invalidation.EvictAsync(engine.Cache, "1", CancellationToken.None);
        Assert.Equal("loaded", Engine.Read(await engine.GetAsync(new Thing("loaded", 2)))!.Name);
        Assert.Contains($"things:g{cleared}:1", await node.KeysAsync());
    }

    /// <remarks>Redis has lost the generation, and its clock is behind.</remarks>
    [Fact]
    public async Task If_another_process_has_begun_an_earlier_generation_all_move_on()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("it", 1));
        var (key, backplane) = ($"{node.KeyPrefix}:things:generation", node.Services.GetRequiredService<Backplane>());
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var before = (long)await redis.GetDatabase().StringGetAsync(key);

        await redis.GetDatabase().StringSetAsync(key, before - 1000);
        await redis.GetSubscriber().PublishAsync(
            RedisChannel.Literal(backplane.Channel), $"another {(int)BackplaneEvent.Cleared} things {before - 1000} ");

        await Eventually.TrueAsync(async () => (long)await redis.GetDatabase().StringGetAsync(key) > before, "the generation to move on");
        await Eventually.TrueAsync(async () => Engine.Read(await engine.GetAsync(new Thing("new", 1)))!.Name == "new",
            "this process to move on");
    }

    [Fact]
    public async Task A_generation_that_was_lost_is_not_given_out_again()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("it", 1));
        var before = Generation(await node.KeysAsync());

        await using (var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis))
        {
            await redis.GetDatabase().KeyDeleteAsync($"{node.KeyPrefix}:things:generation");
        }

        // Another process asks for the generation, and the first one receives the new one.
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        await new Engine(other.Services).GetAsync(new Thing("it", 1));
        await Eventually.TrueAsync(async () =>
        {
            await engine.GetAsync(new Thing("it", 1));
            return Generation(await node.KeysAsync()) > before;
        });
    }

    private static long Generation(string[] keys) => keys
        .Where(key => key.StartsWith("things:g", StringComparison.Ordinal) && key.EndsWith(":1", StringComparison.Ordinal))
        .Max(key => long.Parse(key.Split(':')[1][1..], System.Globalization.CultureInfo.InvariantCulture));
}
