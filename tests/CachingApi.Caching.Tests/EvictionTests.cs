using System.Text;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>An entry that an administrator evicts is gone, and no older one takes its place.</summary>
public sealed class EvictionTests(TestServers servers)
{
    [Fact]
    public async Task An_evicted_entry_is_loaded_again_in_every_process()
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        var inMemory = new CacheOptions { MemoryTtl = TimeSpan.FromHours(1) };
        var (here, there) = (new Engine(node.Services, inMemory), new Engine(other.Services, inMemory));
        await here.GetAsync(new Thing("it", 1));
        await Eventually.TrueAsync(async () =>
        {
            await there.GetAsync(new Thing("it", 1));
            return other.Metric("cache.requests", ("cache", "things"), ("tier", "memory"), ("result", "hit")) > 0;
        });

        await here.Invalidation.EvictAsync(here.Cache, "1", CancellationToken.None);

        // The same version with another name, so that the value shows which call has loaded it.
        Assert.Equal("again", Engine.Read(await here.GetAsync(new Thing("again", 1)))!.Name);
        await Eventually.TrueAsync(async () => Engine.Read(await there.GetAsync(new Thing("again", 1)))!.Name == "again");
    }

    [Fact]
    public async Task A_late_writer_of_an_older_version_is_refused_after_an_eviction_too()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);

        // 1. A commits version 2, B commits version 3 and updates the cache; 2. an administrator evicts; 3. A updates the cache.
        await engine.PutAsync(engine.Key(), new("third", 3), CancellationToken.None);
        await engine.Invalidation.EvictAsync(engine.Cache, "1", CancellationToken.None);
        await engine.PutAsync(engine.Key(), new("second", 2), CancellationToken.None);

        Assert.Equal(3, Engine.Read(await engine.GetAsync(new Thing("third", 3)))!.Version);
    }

    [Fact]
    public async Task A_tombstone_is_not_lost_by_an_eviction()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);

        await engine.Invalidation.InvalidateAsync(engine.Key(), new(3), CancellationToken.None);
        await engine.Invalidation.EvictAsync(engine.Cache, "1", CancellationToken.None);
        await engine.PutAsync(engine.Key(), new("second", 2), CancellationToken.None);

        Assert.Equal(3, Engine.Read(await engine.GetAsync(new Thing("third", 3)))!.Version);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_load_that_is_under_way_is_not_kept(bool versioned)
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        var (reader, administrator) = (new Engine(node.Services, versioned: versioned), new Engine(other.Services, versioned: versioned));
        Thing source = new("old", 1);
        var slow = new SlowLoad(() => source);

        var reading = reader.GetAsync(slow.RunAsync);
        await slow.HasRead;
        source = new("new", 1);
        await administrator.Invalidation.EvictAsync(administrator.Cache, "1", CancellationToken.None);
        slow.GoOn();

        Assert.Equal("new", Engine.Read(await reading)!.Name);
        Assert.Equal("new", Engine.Read(await administrator.GetAsync(_ => throw new InvalidOperationException("It is cached.")))!.Name);
    }

    [Fact]
    public async Task A_foreign_value_is_evicted_too()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("it", 1));
        var key = $"{node.KeyPrefix}:{(await node.KeysAsync()).Single(key => key.EndsWith(":1", StringComparison.Ordinal))}";
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        await redis.GetDatabase().StringSetAsync(key, Encoding.UTF8.GetBytes("of another program"));

        await engine.Invalidation.EvictAsync(engine.Cache, "1", CancellationToken.None);

        Assert.False(await redis.GetDatabase().KeyExistsAsync(key));
    }

    [Fact]
    public async Task While_Redis_is_away_an_eviction_is_refused()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await CacheNode.StartAsync(
            servers, CacheNode.On(redis.ConnectionString, deadline: TimeSpan.FromMilliseconds(200)));
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("it", 1));
        await redis.KillAsync();

        await Assert.ThrowsAsync<UnavailableException>(() => engine.Invalidation.EvictAsync(engine.Cache, "1", CancellationToken.None));
    }
}
