using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>The reads of a process never go back to an older version, in any generation and even if Redis does not answer.</summary>
public sealed class MonotonicReadTests(TestServers servers)
{
    private static readonly CacheOptions InMemory = new() { MemoryTtl = TimeSpan.FromMinutes(5), EarlyRefresh = false };

    [Fact]
    public async Task A_read_does_not_go_back_to_an_entry_of_the_next_generation_that_is_older_than_the_one_in_memory()
    {
        await using var pair = await PairAsync();
        var (here, there) = (pair.Here, pair.There);

        // 1. This process serves version 2, which is committed and not in the cache; 2. another process clears the cache, and fills it with
        // the version that it has read before the commit.
        Assert.Equal(2, Engine.Read(await here.GetAsync(new Thing("new", 2)))!.Version);
        await ClearAsync(pair);
        await there.GetAsync(new Thing("old", 1));

        Assert.Equal(2, Engine.Read(await here.GetAsync(new Thing("new", 2)))!.Version);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_read_does_not_go_back_behind_one_that_a_clear_superseded(bool versioned)
    {
        await using var pair = await PairAsync(versioned: versioned);
        var (here, there) = (pair.Here, pair.There);
        var slow = new SlowLoad(() => new("new", 2));

        // 1. A reader of this process begins; 2. another process clears the cache and fills it with version 1; 3. the reader ends.
        var reader = here.GetAsync(slow.RunAsync);
        await slow.HasRead;
        await ClearAsync(pair);
        await there.GetAsync(new Thing("old", 1));
        slow.GoOn();
        Assert.Equal("new", Engine.Read(await reader)!.Name);

        Assert.Equal("new", Engine.Read(await here.GetAsync(new Thing("new", 2)))!.Name);
    }

    /// <remarks>Found by seed 4869 of the simulation "processes crash".</remarks>
    [Fact]
    public async Task A_read_that_began_before_an_interruption_does_not_take_an_entry_that_a_promoted_replica_still_has()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var (engine, redis) = (new Engine(node.Services, InMemory), node.Services.GetRequiredService<RedisConnections>().Cache);
        var slow = new SlowLoad(() => new("new", 2));
        await engine.GetAsync(new Thing("old", 1));
        var key = $"{node.KeyPrefix}:{Assert.Single(await node.KeysAsync(), key => key.EndsWith(":1", StringComparison.Ordinal))}";
        var old = await redis.StringGetAsync(key);

        // 1. Version 2 is committed, and a read begins; 2. a replica is promoted that has received neither the tombstone nor the lease.
        await engine.Invalidation.InvalidateAsync(engine.Key(), new(2), CancellationToken.None);
        var read = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        Assert.True(await redis.KeyDeleteAsync($"{{{key}}}:lease"));
        await redis.StringSetAsync(key, old);
        node.Services.GetRequiredService<Namespaces>().Forget();
        slow.GoOn();

        Assert.Equal("new", Engine.Read(await read)!.Name);
    }

    /// <remarks>Found by seed 10665 of the simulation "pages, connections break".</remarks>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_read_does_not_go_back_to_an_older_value_without_a_version_that_memory_has_kept_since_a_clear(bool withRedis)
    {
        await using var node = await CacheNode.StartAsync(
            servers, options => (options.Redis, options.RedisState) = withRedis ? (options.Redis, options.RedisState) : (null, null));
        var engine = new Engine(node.Services, InMemory, versioned: false);
        var value = "old";
        var late = new LateLoad(() => new(value, 1));

        // 1. A load begins, and has not read its source; 2. the cache is cleared; 3. a read of the next generation keeps the old value.
        var first = engine.GetAsync(late.RunAsync);
        await late.HasBegun;
        await engine.Invalidation.ClearAsync(engine.Cache.Name, cause: null, CancellationToken.None);
        await engine.GetAsync(new Thing("old", 1));
        Assert.Equal("old", Engine.Read(await engine.GetAsync(new Thing("not loaded", 1)))!.Name);

        // 4. A writer commits; 5. the first load reads the new value, and its reader serves it.
        value = "new";
        late.GoOn();
        Assert.Equal("new", Engine.Read(await first)!.Name);

        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 1)))!.Name);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_read_does_not_go_back_by_joining_a_load_that_has_read_an_older_value_than_was_served_meanwhile(bool versioned)
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, InMemory, versioned);
        var thing = new Thing("old", 1);
        var late = new LateLoad(() => thing);

        // 1. A load begins, and has not read its source; 2. the cache is cleared; 3. a load of the next generation reads the old value.
        var first = engine.GetAsync(late.RunAsync);
        await late.HasBegun;
        await engine.Invalidation.ClearAsync(engine.Cache.Name, cause: null, CancellationToken.None);
        var slow = new SlowLoad(() => thing);
        var second = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;

        // 4. A writer commits; 5. the first load reads the new value, and its reader serves it; 6. another reader comes.
        thing = new("new", 2);
        late.GoOn();
        Assert.Equal("new", Engine.Read(await first)!.Name);
        var third = engine.GetAsync(new Thing("new", 2));
        slow.GoOn();

        Assert.Equal("old", Engine.Read(await second)!.Name);
        Assert.Equal("new", Engine.Read(await third)!.Name);
    }

    [Fact]
    public async Task A_read_does_not_go_back_by_joining_a_load_that_has_read_an_older_value_than_was_served_without_redis()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, InMemory);
        var slow = new SlowLoad(() => new("old", 1));

        // 1. A load reads version 1; 2. a reader that finds Redis too slow is served version 2; 3. another reader joins the load.
        var first = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        Seen(node, engine, new("new", 2));
        var joined = engine.GetAsync(new Thing("new", 2));
        await Eventually.TrueAsync(() => node.Metric("cache.requests", ("tier", "memory"), ("result", "miss")) == 2);
        slow.GoOn();

        Assert.Equal("old", Engine.Read(await first)!.Name);
        Assert.Equal("new", Engine.Read(await joined)!.Name);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_read_does_not_go_back_to_a_late_write_of_this_process_in_the_next_generation(bool kept)
    {
        await using var pair = await PairAsync();
        var (here, there) = (pair.Here, pair.There);

        // 1. This process commits version 1, another one version 2, which a read of this process serves; 2. the cache is cleared; 3. the
        // put of version 1 finds no entry.
        if (kept)
        {
            Assert.Equal(2, Engine.Read(await here.GetAsync(new Thing("new", 2)))!.Version);
        }

        await ClearAsync(pair);
        if (!kept)
        {
            Seen(pair.Node, here, new("new", 2));
        }

        await here.PutAsync(here.Key(), new("old", 1), CancellationToken.None);

        Assert.Equal(2, Engine.Read(await here.GetAsync(new Thing("new", 2)))!.Version);
    }

    [Fact]
    public async Task A_write_that_began_before_the_generation_is_not_put_into_it_as_a_value()
    {
        await using var pair = await PairAsync();
        var (here, there) = (pair.Here, pair.There);
        await here.GetAsync(new Thing("it", 1), "2"); // the generation is known
        var began = Moment.Now;
        await Eventually.TrueAsync(() => Moment.Now.Milliseconds > began.Milliseconds);

        // 1. This process commits version 1, another one version 2, which it puts into the cache; 2. the cache is cleared; 3. the
        // put of version 1 arrives.
        await there.PutAsync(there.Key(), new("new", 2), CancellationToken.None);
        await ClearAsync(pair);
        await here.WriteThrough.PutAsync(here.Key(), new("old", 1), began, CancellationToken.None);

        Assert.Equal(2, Engine.Read(await there.GetAsync(new Thing("new", 2)))!.Version);
        Assert.Equal(2, Engine.Read(await here.GetAsync(new Thing("new", 2)))!.Version);

        // A write that begins now is kept, unless Redis is too slow for it.
        var version = 2;
        await Eventually.TrueAsync(async () =>
        {
            await here.PutAsync(here.Key(), new("newest", ++version), CancellationToken.None);
            return Engine.Read(await there.GetAsync(new Thing("loaded", version))) == new Thing("newest", version);
        });
    }

    [Fact]
    public async Task A_late_write_through_does_not_return_in_the_generation_that_begins_because_redis_lost_a_later_one()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var pair = await PairAsync(redis: redis);
        var (here, there) = (pair.Here, pair.There);
        await here.GetAsync(new Thing("it", 1), "2"); // the generation is known
        await there.GetAsync(new Thing("it", 1), "2");

        // 1. This process commits version 1, another one version 2, which it puts into the cache; 2. Redis loses everything; 3. the
        // put of version 1 arrives.
        await there.PutAsync(there.Key(), new("new", 2), CancellationToken.None);
        await redis.FlushAsync();
        await here.PutAsync(here.Key(), new("old", 1), CancellationToken.None);

        Assert.Equal(2, Engine.Read(await here.GetAsync(new Thing("new", 2)))!.Version);
        Assert.Equal(2, Engine.Read(await there.GetAsync(new Thing("new", 2)))!.Version);
    }

    [Fact]
    public async Task Readers_that_do_not_accept_the_value_of_a_load_share_the_next_one()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        var engine = new Engine(node.Services);
        await redis.KillAsync();
        await Eventually.TrueAsync(() => node.Services.GetRequiredService<CircuitBreaker>().IsOpen);
        var (slow, next) = (new SlowLoad(() => new("it", 1)), new SlowLoad(() => new("it", 2)));
        var first = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        var joined = Enumerable.Range(0, 300).Select(_ => engine.GetAsync(next.RunAsync)).ToArray();

        // Another reader of this process is served version 2 meanwhile.
        Seen(node, engine, new("it", 2));
        slow.GoOn();
        await next.HasRead.WaitAsync(TimeSpan.FromSeconds(30));
        await Task.Delay(500); // the readers come to the next load
        next.GoOn();

        Assert.All(await Task.WhenAll(joined), result => Assert.Equal(2, Engine.Read(result)!.Version));
        Assert.Equal(1, Engine.Read(await first)!.Version);
        Assert.InRange(next.Runs, 1, 10); // a reader on a busy machine may be late
    }

    [Fact]
    public async Task Processes_that_do_not_accept_the_entry_in_redis_load_once()
    {
        await using var pair = await PairAsync(inMemory: false);
        var (here, there) = (pair.Here, pair.There);
        await here.GetAsync(new Thing("it", 1));
        Seen(pair.Node, here, new("it", 2));
        Seen(pair.Other, there, new("it", 2));
        var slow = new SlowLoad(() => new("it", 2));

        var one = here.GetAsync(slow.RunAsync);
        await slow.HasRead;
        var two = there.GetAsync(slow.RunAsync);
        await Eventually.TrueAsync(async () => await LeaseIsWaitedForAsync(pair.Node));
        slow.GoOn();

        Assert.Equal([2, 2], (await Task.WhenAll(one, two)).Select(result => Engine.Read(result)!.Version));
        Assert.Equal(1, slow.Runs);
    }

    [Fact]
    public async Task Not_found_is_cached_again_although_a_version_was_served_without_redis_before()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var node = await CacheNode.StartAsync(servers, time: time);
        var engine = new Engine(node.Services);
        Seen(node, engine, new("it", 2));
        time.Advance(TimeSpan.FromSeconds(2));
        var loads = 0;

        for (var read = 0; read < 10; read++)
        {
            Assert.False((await engine.GetAsync(_ =>
            {
                loads++;
                return Task.FromResult<Thing?>(null);
            })).Found);
        }

        Assert.Equal(1, loads);
    }

    [Fact]
    public async Task Records_of_too_many_entities_expire()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var seen = new SeenRevisions(time);
        CacheEntry Entry(long version) =>
            CacheEntry.Of(new EntryKey("it"), engine.Cache, new("it", version), TimeSpan.Zero, time.GetUtcNow());
        for (var id = 0; id < 10_000; id++)
        {
            seen.Add(engine.Cache, $"{id}", Entry(2));
        }

        // One more than fits: older entries are refused, and further entities are no longer recorded individually.
        var old = Entry(1);
        seen.Add(engine.Cache, "one more", Entry(2));
        Assert.True(seen.MayBeNewerThan("things", "another", old));
        time.Advance(TimeSpan.FromSeconds(2));
        var later = Entry(1);
        seen.Add(engine.Cache, "yet another", Entry(2));
        Assert.False(seen.MayBeNewerThan("things", "another", later));
        Assert.True(seen.MayBeNewerThan("things", "yet another", later));

        // Redis does not hold older entries for so long.
        time.Advance(engine.Cache.Options.Ttl + engine.Cache.Options.StaleFor + TimeSpan.FromMinutes(1));
        Assert.False(seen.MayBeNewerThan("things", "yet another", Entry(1)));
        Assert.Equal(default, seen.Highest("things", "yet another"));
    }

    [Fact]
    public async Task A_write_that_comes_late_is_not_kept_in_memory_while_redis_lacks_a_later_one_of_this_process()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var (engine, queue) = (new Engine(node.Services, InMemory), node.Services.GetRequiredService<AutoRecoveryQueue>());

        for (var round = 0; round < 20; round++)
        {
            // 1. This process commits versions 1 and 2; 2. its put of version 2 does not reach Redis; 3. that of version 1 does.
            var key = engine.Key($"{round}");
            queue.Enqueue("things", key.Id, new(2));
            await engine.PutAsync(key, new("old", 1), CancellationToken.None);

            Assert.Equal(2, Engine.Read(await engine.GetAsync(new Thing("new", 2), key.Id))!.Version);
        }
    }

    /// <summary>Records a served value that Redis does not have.</summary>
    private static void Seen(CacheNode node, Engine engine, Thing thing) => node.Services.GetRequiredService<SeenRevisions>().Add(
        engine.Cache,
        "1",
        CacheEntry.Of(new EntryKey("1"), engine.Cache, thing, TimeSpan.Zero, node.Services.GetRequiredService<TimeProvider>().GetUtcNow()));

    private static async Task<bool> LeaseIsWaitedForAsync(CacheNode node)
    {
        var redis = node.Services.GetRequiredService<RedisConnections>();
        foreach (var key in (await node.KeysAsync()).Where(key => key.EndsWith(":lease", StringComparison.Ordinal)))
        {
            var lease = (string?)await redis.Cache.StringGetAsync($"{{{node.KeyPrefix}:{key[1..]}");
            if (lease?.Contains(" + ", StringComparison.Ordinal) == true)
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>Clears the cache from the other process; ends when this one has the next generation.</summary>
    private static async Task ClearAsync(Pair pair)
    {
        await pair.There.Invalidation.ClearAsync(pair.There.Cache.Name, cause: null, CancellationToken.None);
        var generation = (await Of(pair.Other).CurrentAsync("things", CancellationToken.None))!.Generation;
        await Eventually.TrueAsync(() => Of(pair.Node).Of("things").Current.Generation == generation);

        static Namespaces Of(CacheNode node) => node.Services.GetRequiredService<Namespaces>();
    }

    private async Task<Pair> PairAsync(bool inMemory = true, bool versioned = true, RedisServer? redis = null)
    {
        var settings = redis is null ? null : CacheNode.On(redis.ConnectionString);
        var other = await CacheNode.StartAsync(servers, settings);
        var node = await CacheNode.StartAsync(servers, settings, nodeOf: other);
        var cache = inMemory ? InMemory : null;
        return new(node, new(node.Services, cache, versioned), other, new(other.Services, cache, versioned));
    }

    /// <summary>Two processes, and the engine of each.</summary>
    private sealed record Pair(CacheNode Node, Engine Here, CacheNode Other, Engine There) : IAsyncDisposable
    {
        public async ValueTask DisposeAsync()
        {
            await Node.DisposeAsync();
            await Other.DisposeAsync();
        }
    }
}
