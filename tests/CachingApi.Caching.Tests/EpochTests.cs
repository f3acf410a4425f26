using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>A read keeps the epoch that it began with: entries that were cleared meanwhile do not come back in memory.</summary>
public sealed class EpochTests(TestServers servers)
{
    private static readonly CacheOptions InMemory = new() { MemoryTtl = TimeSpan.FromMinutes(5), EarlyRefresh = false };

    [Fact]
    public async Task An_entry_of_a_cleared_generation_is_not_kept_in_memory()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var other = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(proxy.ConnectionString), nodeOf: other);
        var (here, there) = (new Engine(node.Services, InMemory, versioned: false), new Engine(other.Services, InMemory, versioned: false));
        await here.GetAsync(new Thing("another", 0), "2"); // the generation is known

        // 1. A reader takes the generation and misses; 2. another process fills; 3. a writer clears the cache.
        var asked = proxy.HoldAsync(":lease");
        var reader = here.GetAsync(new Thing("new", 0));
        await asked;
        await there.GetAsync(new Thing("old", 0));
        await there.Invalidation.ClearAsync(there.Cache.Name, cause: null, CancellationToken.None);
        var generation = (await other.Services.GetRequiredService<Namespaces>().CurrentAsync("things", CancellationToken.None))!.Generation;
        await Eventually.TrueAsync(() => node.Services.GetRequiredService<Namespaces>().Of("things").Current.Generation == generation);

        // 4. The reader finds the entry of step 2 under the lease.
        proxy.Release();
        Assert.Equal("old", Engine.Read(await reader)!.Name);

        Assert.Equal("new", Engine.Read(await here.GetAsync(new Thing("new", 0)))!.Name);
    }

    /// <remarks>Found by a simulation: both can happen in one millisecond.</remarks>
    [Fact]
    public async Task A_value_is_not_put_into_a_generation_that_came_after_its_write_began()
    {
        await using var other = await CacheNode.StartAsync(servers);
        await using var node = await CacheNode.StartAsync(servers, nodeOf: other);
        var (here, there) = (new Engine(node.Services, InMemory), new Engine(other.Services, InMemory));
        await here.KnowGenerationAsync();
        var space = node.Services.GetRequiredService<Namespaces>().Of("things");
        for (var round = 0; round < 20; round++)
        {
            var began = Moment.Now;
            await there.Invalidation.ClearAsync(there.Cache.Name, cause: null, CancellationToken.None);
            var moved = other.Services.GetRequiredService<Namespaces>().Of("things").Highest;
            Assert.True(SpinWait.SpinUntil(() => space.Current.Generation == moved, TimeSpan.FromSeconds(30)));

            await here.WriteThrough.PutAsync(here.Key($"{round}"), new("late", 1), began, CancellationToken.None);
            Assert.Equal("loaded", Engine.Read(await here.GetAsync(new Thing("loaded", 2), $"{round}"))!.Name);
        }
    }

    /// <remarks>Found by seed 17201 of the simulation "pages, connections break".</remarks>
    [Fact]
    public async Task A_generation_that_Redis_has_lost_is_not_issued_again()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var (tier, redis) = (node.Services.GetRequiredService<RedisTier>(), node.Services.GetRequiredService<RedisConnections>());
        for (var round = 0; round < 50; round++)
        {
            // In one batch, so that it takes less than a millisecond.
            var cleared = tier.GenerationAsync("things", GenerationChange.Next, 0, [], CancellationToken.None);
            var lost = redis.Cache.KeyDeleteAsync($"{node.KeyPrefix}:things:generation");
            var next = tier.GenerationAsync("things", GenerationChange.Next, 0, [], CancellationToken.None);

            Assert.True(await lost);
            Assert.True(await next > await cleared);
        }
    }

    /// <remarks>Found by seed 12007 of the simulation "pages".</remarks>
    [Fact]
    public async Task A_message_does_not_verify_a_generation_because_it_may_have_been_under_way_for_long()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var space = namespaces.Of("things");
        var first = (await namespaces.CurrentAsync("things", CancellationToken.None))!.Generation!.Value;
        var verified = space.VerifiedAt;

        var channel = RedisChannel.Literal(node.Services.GetRequiredService<Backplane>().Channel);
        var publisher = node.Services.GetRequiredService<RedisConnections>().Cache;
        foreach (var generation in new[] { first, first + 1 })
        {
            await publisher.PublishAsync(channel, $"another {(int)BackplaneEvent.Cleared} things {generation} ");
        }

        await Eventually.TrueAsync(() => space.Current.Generation == first + 1);
        Assert.Equal(verified, space.VerifiedAt);
    }

    [Fact]
    public async Task A_clear_takes_effect_at_once_whatever_else_the_process_does()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, InMemory, versioned: false);
        var (memory, namespaces) = (node.Services.GetRequiredService<MemoryTier>(), node.Services.GetRequiredService<Namespaces>());
        using var stop = new CancellationTokenSource();
        var busy = Enumerable.Range(0, 16).Select(_ => Task.Run(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                Thread.SpinWait(1000);
            }
        })).ToArray();

        var found = 0;
        for (var round = 0; round < 300; round++)
        {
            var now = TimeProvider.System.GetUtcNow();
            var entry = CacheEntry.Of(new EntryKey("k"), engine.Cache, new("old", 0), TimeSpan.Zero, now);
            memory.Keep(engine.Cache, $"{round}", entry, memory.Begin(engine.Cache, $"{round}", epoch: null), now);
            namespaces.Of("things").Renew();
            found += memory.TryFind(engine.Cache, $"{round}", now, out _) ? 1 : 0;
        }

        await stop.CancelAsync();
        await Task.WhenAll(busy);
        Assert.Equal(0, found);
    }

    [Fact]
    public async Task Memory_is_bounded_while_it_is_cleared_and_filled_at_the_same_time()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var settings = new CacheOptions { MemoryTtl = TimeSpan.FromMinutes(5), MemoryEntries = 100, EarlyRefresh = false };
        var engine = new Engine(node.Services, settings, versioned: false);
        var (memory, namespaces) = (node.Services.GetRequiredService<MemoryTier>(), node.Services.GetRequiredService<Namespaces>());
        var (added, filling) = (0, 4);

        var fillers = Enumerable.Range(0, filling).Select(_ => Task.Run(() =>
        {
            for (var count = 0; count < 50_000; count++)
            {
                var (id, now) = ($"{Interlocked.Increment(ref added)}", TimeProvider.System.GetUtcNow());
                var entry = CacheEntry.Of(new EntryKey(id), engine.Cache, new("it", 0), TimeSpan.Zero, now);
                memory.Keep(engine.Cache, id, entry, memory.Begin(engine.Cache, id, epoch: null), now);
            }

            Interlocked.Decrement(ref filling);
        })).ToArray();
        var clears = 0;
        while (Volatile.Read(ref filling) > 0)
        {
            namespaces.Of("things").Renew();
            clears++;
            await Task.Yield();
        }

        await Task.WhenAll(fillers);
        Assert.True(clears > 100, $"{clears} clears");

        // The eviction may come shortly after the addition; a further addition triggers it.
        await Eventually.TrueAsync(async () =>
        {
            await engine.GetAsync(new Thing("it", 0), "last");
            return engine.Cache.Memory.Held <= 100;
        });

        // Only entries that can be served are counted.
        namespaces.Of("things").Renew();
        Assert.Equal(0, node.Metric("cache.entries", ("cache", "things")));
        await engine.GetAsync(new Thing("it", 0), "1");
        await engine.GetAsync(new Thing("it", 0), "1");
        Assert.Equal(1, node.Metric("cache.entries", ("cache", "things")));
    }

    [Fact]
    public async Task A_generation_that_was_asked_for_before_messages_were_lost_is_used_by_its_reader_only()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var space = node.Services.GetRequiredService<Namespaces>().Of("things");
        var interruptions = space.Interruptions;
        space.Learn(7, interruptions, asked: 1);

        // 1. A reader asks; 2. the subscription is lost, and with it the message of generation 9; 3. the answer, 8, arrives.
        space.Renew();
        var read = space.Learn(8, interruptions, asked: 2);

        Assert.Equal(8, read.Generation);
        Assert.NotSame(read, space.Current);
        Assert.Null(space.Current.Generation);
        Assert.Equal(9, space.Learn(9, space.Interruptions, asked: 3).Generation);
        Assert.Equal(9, space.Learn(8, space.Interruptions, asked: 4).Generation);
    }

    [Fact]
    public async Task A_generation_is_known_since_it_was_learnt_first_also_after_messages_were_lost()
    {
        var space = new Namespace("things");
        var first = space.Learn(7, space.Interruptions, asked: 1);
        await Eventually.TrueAsync(() => Moment.Now.Milliseconds > first.Since.Milliseconds);

        space.Renew();
        var again = space.Learn(7, space.Interruptions, asked: 2);
        var next = space.Learn(8, space.Interruptions, asked: 3);

        Assert.NotSame(first, again);
        Assert.Equal(first.Since, again.Since);
        Assert.True(next.Since.Milliseconds > first.Since.Milliseconds);
    }
}
