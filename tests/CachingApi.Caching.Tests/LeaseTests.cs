using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>One load at a time across nodes.</summary>
public sealed class LeaseTests(TestServers servers)
{
    [Fact]
    public async Task A_cold_key_asked_for_a_thousand_times_at_once_by_three_nodes_is_loaded_once()
    {
        await using var first = await CacheNode.StartAsync(servers);
        await using var second = await CacheNode.StartAsync(servers, nodeOf: first);
        await using var third = await CacheNode.StartAsync(servers, nodeOf: first);
        var engines = new[] { first, second, third }.Select(node => new Engine(node.Services)).ToArray();
        var loads = 0;

        async Task<Thing?> LoadAsync(CancellationToken stop)
        {
            Interlocked.Increment(ref loads);
            await Task.Delay(300, stop);
            return new("it", 1);
        }

        var results = await Task.WhenAll(Enumerable.Range(0, 1000).Select(reader => engines[reader % 3].GetAsync(LoadAsync)));

        Assert.Equal(1, loads);
        Assert.All(results, result => Assert.Equal("it", Engine.Read(result)!.Name));
    }

    [Fact]
    public async Task Waiters_are_woken_by_push()
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var channel = RedisChannel.Literal(node.Services.GetRequiredService<Backplane>().Channel);
        var woken = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await redis.GetSubscriber().SubscribeAsync(channel, (_, message) =>
        {
            if ($"{message}".Contains($" {(int)BackplaneEvent.Filled} things ", StringComparison.Ordinal))
            {
                woken.TrySetResult();
            }
        });
        var (here, there) = (new Engine(node.Services), new Engine(other.Services));
        var slow = new SlowLoad(() => new("it", 1));
        var reader = here.GetAsync(slow.RunAsync);
        await slow.HasRead;

        // Another process asks, so the holder publishes a message when its load ends.
        var waiter = there.GetAsync(_ => throw new InvalidOperationException("It waits."));
        await Eventually.TrueAsync(() => other.Metric("cache.operation.duration", ("operation", "lease")) >= 1);
        slow.GoOn();

        await woken.Task.WaitAsync(TimeSpan.FromSeconds(10));
        Assert.Equal("it", Engine.Read(await waiter)!.Name);
        await reader;
    }

    [Fact]
    public async Task A_failed_load_of_another_node_is_tried_once_here_for_all_waiting_readers()
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        var (here, there) = (new Engine(node.Services), new Engine(other.Services));
        var gate = new TaskCompletionSource();
        var loads = 0;

        async Task<Thing?> FailAsync(CancellationToken stop)
        {
            Interlocked.Increment(ref loads);
            await gate.Task.WaitAsync(stop);
            throw new InvalidDataException("broken");
        }

        var reader = here.GetAsync(FailAsync);
        await Eventually.TrueAsync(() => loads == 1);
        var waiters = Enumerable.Range(0, 20).Select(_ => there.GetAsync(FailAsync)).ToArray();
        await Eventually.TrueAsync(() => other.Metric("cache.operation.duration", ("operation", "get")) >= 20);
        await Eventually.TrueAsync(() => other.Metric("cache.operation.duration", ("operation", "lease")) >= 1);
        gate.SetResult();

        await Assert.ThrowsAsync<InvalidDataException>(() => reader);
        foreach (var waiter in waiters)
        {
            await Assert.ThrowsAsync<InvalidDataException>(() => waiter);
        }

        Assert.Equal(2, loads);
    }

    [Fact]
    public async Task A_failed_load_of_a_sick_node_does_not_fail_the_readers_of_a_healthy_one()
    {
        await using var sick = await CacheNode.StartAsync(servers);
        await using var healthy = await CacheNode.StartAsync(servers, nodeOf: sick);
        var (there, here) = (new Engine(sick.Services), new Engine(healthy.Services));
        var (gate, loading) = (new TaskCompletionSource(), new TaskCompletionSource());

        var failed = there.GetAsync(async stop =>
        {
            loading.SetResult();
            await gate.Task.WaitAsync(stop);
            throw new InvalidDataException("This node cannot reach the source.");
        });
        await loading.Task;
        var waiting = here.GetAsync(new Thing("it", 1));
        await Eventually.TrueAsync(() => healthy.Metric("cache.operation.duration", ("operation", "lease")) >= 1);
        gate.SetResult();

        await Assert.ThrowsAsync<InvalidDataException>(() => failed);
        Assert.Equal("it", Engine.Read(await waiting)!.Name);
    }

    [Fact]
    public async Task A_process_that_waits_gives_up_when_the_loads_of_two_others_have_failed()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var (leases, backplane) = (node.Services.GetRequiredService<Leases>(), node.Services.GetRequiredService<Backplane>());
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var key = namespaces.Key(engine.Cache, await namespaces.CurrentAsync("things", CancellationToken.None), "1");
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        double Asked() => node.Metric("cache.operation.duration", ("operation", "lease"));
        Task FailAsync() => redis.GetSubscriber().PublishAsync(
            RedisChannel.Literal(backplane.Channel), backplane.Message(BackplaneEvent.Failed, "things", "1", "0"));
        await redis.GetDatabase().StringSetAsync(key.Lease, TestCache.HeldLease, TimeSpan.FromMinutes(1));

        var waiting = leases.TakeAsync("things", "1", key, new(TimeProvider.System.GetUtcNow(), _ => true), CancellationToken.None);
        await Eventually.TrueAsync(() => Asked() > 0);
        await FailAsync();
        var asked = Asked();
        await Eventually.TrueAsync(() => Asked() > asked + 1);
        Assert.False(waiting.IsCompleted);

        await FailAsync();
        await Assert.ThrowsAsync<UnavailableException>(() => waiting);
    }

    [Fact]
    public async Task A_load_that_outlives_its_lease_is_kept_if_no_write_has_come_meanwhile()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var lease = await LeaseOnThingAsync(node);

        Assert.Equal(LeaseState.Granted, await lease.TakeAsync("first", TimeSpan.FromMilliseconds(1)));
        await Eventually.TrueAsync(async () => await lease.TakeAsync("second", TimeSpan.FromMinutes(1)) is LeaseState.Granted);
        Assert.Equal(WriteState.Stored, await lease.FillAsync("first", version: 2));

        // The second process still has the lease.
        Assert.Equal(LeaseState.Held, await lease.TakeAsync("third", TimeSpan.FromMinutes(1)));
        Assert.Equal(WriteState.Refused, await lease.FillAsync("second", version: 1));
        Assert.Equal(WriteState.Stored, await lease.FillAsync("second", version: 3));
        Assert.Equal(WriteState.Late, await lease.FillAsync("first", version: 4));
    }

    [Fact]
    public async Task A_load_from_before_a_write_is_not_kept_even_if_redis_has_evicted_the_tombstone()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var lease = await LeaseOnThingAsync(node);
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);

        Assert.Equal(LeaseState.Granted, await lease.TakeAsync("reader", TimeSpan.FromMinutes(1)));
        await lease.Engine.Invalidation.InvalidateAsync(lease.Engine.Key(), new(2), CancellationToken.None);
        Assert.True(await redis.GetDatabase().KeyDeleteAsync(lease.Key.Text));

        Assert.Equal(WriteState.Late, await lease.FillAsync("reader", version: 1));
        Assert.False(await redis.GetDatabase().KeyExistsAsync(lease.Key.Text));
    }

    [Fact]
    public async Task A_lease_whose_holder_died_delays_the_others_by_no_more_than_its_time()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var redis = node.Services.GetRequiredService<RedisTier>();
        var epoch = await namespaces.CurrentAsync("things", CancellationToken.None);

        // A dead holder: it never renews or releases the lease.
        var read = await redis.ReadOrLeaseAsync(
            namespaces.Key(engine.Cache, epoch, "1"), "dead", Leases.Duration, TimeProvider.System.GetUtcNow(), CancellationToken.None);
        Assert.Equal(LeaseState.Granted, read.State);

        Assert.Equal("it", Engine.Read(await engine.GetAsync(new Thing("it", 1)))!.Name);
        Assert.Equal(CacheOutcome.RedisHit, (await engine.GetAsync(new Thing("it", 1))).Outcome);
    }

    [Fact]
    public async Task A_load_longer_than_the_lease_keeps_it_and_no_other_process_loads()
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        var (here, there) = (new Engine(node.Services), new Engine(other.Services));
        var loads = 0;

        async Task<Thing?> LoadAsync(CancellationToken stop)
        {
            Interlocked.Increment(ref loads);
            await Task.Delay(Leases.Duration * 2.5, stop);
            return new("it", 1);
        }

        await Task.WhenAll(here.GetAsync(LoadAsync), there.GetAsync(LoadAsync));

        Assert.Equal(1, loads);
    }

    [Fact]
    public async Task A_fill_without_the_lease_is_refused()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, versioned: false);
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var redis = node.Services.GetRequiredService<RedisTier>();
        var key = namespaces.Key(engine.Cache, await namespaces.CurrentAsync("things", CancellationToken.None), "1");
        var entry = CacheEntry.Of(key, engine.Cache, new("old", 0), TimeSpan.Zero, TimeProvider.System.GetUtcNow());
        Task<TierWrite> FillAsync(string token) => redis.FillAsync(
            "things", "1", key, token, entry, TimeSpan.FromMinutes(1), replaces: false, CancellationToken.None);
        Task<LeaseRead> LeaseAsync(string token) =>
            redis.ReadOrLeaseAsync(key, token, Leases.Duration, TimeProvider.System.GetUtcNow(), CancellationToken.None);

        Assert.Equal(WriteState.Late, (await FillAsync("never had")).State);

        // An invalidation breaks the lease, also for entities without a version.
        Assert.Equal(LeaseState.Granted, (await LeaseAsync("broken")).State);
        await engine.Invalidation.InvalidateAsync(engine.Key(), new(0), CancellationToken.None);
        Assert.Equal(WriteState.Late, (await FillAsync("broken")).State);

        Assert.Equal(LeaseState.Granted, (await LeaseAsync("good")).State);
        Assert.Equal(LeaseState.Held, (await LeaseAsync("other")).State);
        Assert.Equal(WriteState.Late, (await FillAsync("other")).State);
        Assert.Equal(WriteState.Stored, (await FillAsync("good")).State);
        Assert.Equal(LeaseState.Fresh, (await LeaseAsync("late")).State);
    }

    private static async Task<ThingLease> LeaseOnThingAsync(CacheNode node)
    {
        var (engine, namespaces) = (new Engine(node.Services), node.Services.GetRequiredService<Namespaces>());
        var key = namespaces.Key(engine.Cache, await namespaces.CurrentAsync("things", CancellationToken.None), "1");
        return new(engine, node.Services.GetRequiredService<RedisTier>(), key);
    }

    /// <summary>The lease of one thing, as processes take it and fill under it.</summary>
    private sealed record ThingLease(Engine Engine, RedisTier Tier, EntryKey Key)
    {
        public async Task<LeaseState> TakeAsync(string token, TimeSpan duration) =>
            (await Tier.ReadOrLeaseAsync(Key, token, duration, DateTimeOffset.MaxValue, CancellationToken.None)).State;

        public async Task<WriteState> FillAsync(string token, long version)
        {
            var entry = CacheEntry.Of(Key, Engine.Cache, new("it", version), TimeSpan.Zero, TimeProvider.System.GetUtcNow());
            return (await Tier.FillAsync(
                "things", "1", Key, token, entry, TimeSpan.FromMinutes(1), replaces: false, CancellationToken.None)).State;
        }
    }
}
