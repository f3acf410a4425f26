using System.Text.Json;
using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>
/// The race that plain cache-aside loses: 1. a reader misses and reads version 1; 2. a writer commits version 2 and deletes
/// the entry; 3. the reader, which was slow, stores version 1.
/// </summary>
public sealed class StaleSetRaceTests(TestServers servers)
{
    [Theory]
    [InlineData("invalidate", false)]
    [InlineData("invalidate", true)]
    [InlineData("write-through", false)]
    [InlineData("write-through", true)]
    public async Task A_slow_load_does_not_put_the_old_value_back(string strategy, bool writeOnOtherNode)
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        var (reader, writer) = (new Engine(node.Services), new Engine((writeOnOtherNode ? other : node).Services));

        var next = await RaceAsync(
            async load => Engine.Read(await reader.GetAsync(load)),
            thing => strategy == "invalidate"
                ? writer.Invalidation.InvalidateAsync(writer.Key(), new(thing.Version), CancellationToken.None)
                : writer.PutAsync(writer.Key(), thing, CancellationToken.None));

        Assert.Equal(2, next!.Version);
        Assert.Equal(1, node.Metric("cache.refused_fills", ("cache", "things")));
    }

    [Fact]
    public async Task A_plain_cache_aside_loses_this_race()
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var (redis, key) = (connection.GetDatabase(), $"plain-{Guid.NewGuid():N}");

        var next = await RaceAsync(
            async load =>
            {
                if (await redis.StringGetAsync(key) is { HasValue: true } hit)
                {
                    return JsonSerializer.Deserialize<Thing>((string)hit!);
                }

                var loaded = await load(CancellationToken.None);
                await redis.StringSetAsync(key, JsonSerializer.Serialize(loaded), TimeSpan.FromMinutes(1));
                return loaded;
            },
            _ => redis.KeyDeleteAsync(key));

        Assert.Equal(1, next!.Version);
    }

    [Fact]
    public async Task The_slow_reader_itself_receives_the_new_value()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        Thing source = new("old", 1);
        var slow = new SlowLoad(() => source);

        var reader = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        source = new("new", 2);
        await engine.Invalidation.InvalidateAsync(engine.Key(), new(2), CancellationToken.None);
        slow.GoOn();

        Assert.Equal(2, Engine.Read(await reader)!.Version);
        Assert.Equal(2, slow.Runs);
    }

    [Fact]
    public async Task A_reader_that_comes_after_the_write_does_not_join_an_older_load()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        Thing source = new("old", 1);
        var slow = new SlowLoad(() => source);

        var before = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        source = new("new", 2);
        await engine.Invalidation.InvalidateAsync(engine.Key(), new(2), CancellationToken.None);
        var after = await engine.GetAsync(source);

        Assert.Equal(2, Engine.Read(after)!.Version);
        slow.GoOn();
        Assert.Equal(2, Engine.Read(await before)!.Version);
    }

    [Fact]
    public async Task A_slow_not_found_does_not_hide_an_entity_that_was_created_meanwhile()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        Thing? source = null;
        var slow = new SlowLoad(() => source);

        var reader = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        source = new("new", 1);
        await engine.Invalidation.InvalidateAsync(engine.Key(), new(1), CancellationToken.None);
        slow.GoOn();
        await reader;

        Assert.Equal(source, Engine.Read(await engine.GetAsync(source)));
    }

    [Fact]
    public async Task A_slow_load_does_not_bring_back_an_entity_that_was_deleted_meanwhile()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        Thing? source = new("old", 1);
        var slow = new SlowLoad(() => source);

        var reader = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        source = null;
        await engine.Invalidation.MarkDeletedAsync(engine.Key(), new(2), Moment.Now, CancellationToken.None);
        slow.GoOn();

        Assert.False((await reader).Found);
        Assert.False((await engine.GetAsync(_ => throw new InvalidOperationException("The deletion is cached."))).Found);
    }

    [Fact]
    public async Task Of_two_writers_the_later_commit_wins_in_whatever_order_they_reach_the_cache()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);

        await engine.PutAsync(engine.Key(), new("third", 3), CancellationToken.None);
        await engine.PutAsync(engine.Key(), new("second", 2), CancellationToken.None);
        await engine.Invalidation.InvalidateAsync(engine.Key(), new(2), CancellationToken.None);

        var read = await engine.GetAsync(_ => throw new InvalidOperationException("It is cached."));
        Assert.Equal(new("third", 3), Engine.Read(read));
    }

    private static async Task<Thing?> RaceAsync(Func<Func<CancellationToken, Task<Thing?>>, Task<Thing?>> read, Func<Thing, Task> written)
    {
        Thing source = new("old", 1);
        var slow = new SlowLoad(() => source);

        var reader = read(slow.RunAsync);
        await slow.HasRead;
        source = new("new", 2);
        await written(source);
        slow.GoOn();
        await reader;

        return await read(_ => Task.FromResult<Thing?>(source));
    }
}
