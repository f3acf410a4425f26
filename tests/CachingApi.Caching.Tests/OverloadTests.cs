using System.Diagnostics;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>The effects of a short or partial fault are short or partial, too.</summary>
public sealed class OverloadTests(TestServers servers)
{
    [Fact]
    public void Many_failures_of_one_moment_do_not_open_the_circuit()
    {
        var circuit = Circuit(TimeSpan.FromSeconds(10));

        Parallel.For(0, 1000, _ => circuit.Failed());

        Assert.False(circuit.IsOpen);
    }

    [Fact]
    public async Task Failures_over_some_time_open_it_unless_successes_outnumber_them()
    {
        var circuit = Circuit(TimeSpan.FromMilliseconds(1));
        await FailAsync(circuit);
        Assert.True(circuit.IsOpen);

        var mostlyWell = Circuit(TimeSpan.FromMilliseconds(1));
        mostlyWell.Failed();
        mostlyWell.Succeeded();
        mostlyWell.Succeeded();
        mostlyWell.Failed();
        Assert.False(mostlyWell.IsOpen);
        mostlyWell.Succeeded();
        mostlyWell.Succeeded();
        await FailAsync(mostlyWell);
        Assert.True(mostlyWell.IsOpen);
    }

    [Fact]
    public async Task Only_a_probe_closes_it_and_not_if_the_connection_was_lost_meanwhile()
    {
        var circuit = Circuit(TimeSpan.FromMilliseconds(1));
        circuit.Open();
        circuit.Succeeded();
        Assert.True(circuit.IsOpen);

        var probed = circuit.Openings;
        circuit.Open();
        circuit.Close(probed);
        Assert.True(circuit.IsOpen);

        circuit.Close(circuit.Openings);
        Assert.False(circuit.IsOpen);
        Assert.True(circuit.IsSettling);
        await Eventually.TrueAsync(() => !circuit.IsSettling);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_slow_source_of_one_cache_delays_no_other_cache(bool redisAnswers)
    {
        await using var redis = await RedisServer.StartAsync();
        // If the lease were not answered in time, the load would take place without Redis.
        var deadline = redisAnswers ? TimeSpan.FromSeconds(5) : TimeSpan.FromMilliseconds(200);
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString, deadline));
        var engine = new Engine(node.Services);
        var slow = TestCache.Of(node.Services, "slow", new() { MemoryTtl = TimeSpan.Zero }, ThingJson.Default.Thing);
        if (!redisAnswers)
        {
            await redis.KillAsync();
            await Eventually.TrueAsync(() => !node.Services.GetRequiredService<RedisTier>().IsTrusted);
        }

        var gate = new TaskCompletionSource();
        var loading = 0;
        var readers = Enumerable.Range(0, 200).Select(id => engine.CacheAside.GetAsync(
            slow.Key($"{id}"),
            async stop =>
            {
                Interlocked.Increment(ref loading);
                await gate.Task.WaitAsync(stop);
                return new Thing("slow", 0);
            },
            null,
            CancellationToken.None).AsTask()).ToArray();
        await Eventually.TrueAsync(() => loading == (redisAnswers ? 64 : 32));

        Assert.Equal("it", Engine.Read(await engine.GetAsync(new Thing("it", 1)))!.Name);

        Assert.Equal(redisAnswers ? 64 : 32, loading);
        gate.SetResult();
        await Task.WhenAll(readers);
        Assert.Equal(200, loading);
    }

    [Fact]
    public async Task A_source_that_fails_is_asked_once_a_second_while_there_is_a_stale_entry()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(
            node.Services, new() { Ttl = TimeSpan.FromMilliseconds(1), StaleFor = TimeSpan.FromHours(1), MemoryTtl = TimeSpan.Zero });
        await engine.GetAsync(new Thing("stale", 1));
        var (loads, start) = (0, Stopwatch.GetTimestamp());

        for (var read = 0; read < 300; read++)
        {
            var result = await engine.GetAsync(_ =>
            {
                loads++;
                throw new InvalidDataException("The source fails.");
            });
            Assert.Equal("stale", Engine.Read(result)!.Name);
        }

        Assert.InRange(loads, 1, 2 + (int)(Stopwatch.GetElapsedTime(start) / Leases.BackOff));
        await Eventually.TrueAsync(async () => Engine.Read(await engine.GetAsync(new Thing("fresh", 2)))!.Name == "fresh");

        // A write ends the back-off.
        await Eventually.TrueAsync(async () =>
            (await engine.GetAsync(_ => throw new InvalidDataException("It fails again."))).Outcome is CacheOutcome.StaleIfError);
        await engine.Invalidation.InvalidateAsync(engine.Key(), new(3), CancellationToken.None);
        Assert.Equal("written", Engine.Read(await engine.GetAsync(new Thing("written", 3)))!.Name);
    }

    [Fact]
    public async Task More_entities_than_can_be_remembered_are_read_while_redis_is_frozen_and_no_cache_is_cleared()
    {
        const int Entities = 12_000;
        await using var redis = await RedisServer.StartAsync();
        await using var node = await CacheNode.StartAsync(
            servers, CacheNode.On(redis.ConnectionString, deadline: TimeSpan.FromMilliseconds(200)));
        var (engine, tier) = (new Engine(node.Services), node.Services.GetRequiredService<RedisTier>());
        await engine.GetAsync(new Thing("old", 1), "last");
        await engine.GetAsync(new Thing("old", 1), "first");
        await using var watcher = await ConnectionMultiplexer.ConnectAsync(redis.ConnectionString);
        var before = await watcher.GetDatabase().StringGetAsync($"{node.KeyPrefix}:things:generation");

        await redis.PauseAsync();
        await Eventually.TrueAsync(async () =>
        {
            await engine.GetAsync(new Thing("new", 2), "first");
            return !tier.IsTrusted;
        });
        for (var id = 0; id < Entities; id++)
        {
            await engine.GetAsync(new Thing("it", 1), $"{id}");
        }

        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 2), "last"))!.Name);
        await redis.ResumeAsync();
        await Eventually.TrueAsync(() => tier.IsTrusted);

        // Redis still has version 1 of both. The first was recorded, the last came after the bound.
        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 2), "first"))!.Name);
        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 2), "last"))!.Name);
        await Eventually.TrueAsync(async () => (await engine.GetAsync(new Thing("new", 2), "last")).Outcome is CacheOutcome.RedisHit);
        Assert.Equal(before, await watcher.GetDatabase().StringGetAsync($"{node.KeyPrefix}:things:generation"));
    }

    [Fact]
    public async Task Requests_of_one_moment_share_a_run_and_none_is_served_by_one_that_began_before_it()
    {
        var commits = new GroupCommit<int, int>();
        var gate = new TaskCompletionSource();
        var runs = new List<int[]>();
        async Task<int> RunAsync(IReadOnlyList<int> requests)
        {
            runs.Add([.. requests]);
            if (runs.Count == 1)
            {
                await gate.Task;
                throw new InvalidDataException("The first run fails.");
            }

            return runs.Count;
        }

        var first = commits.RunAsync(1, RunAsync);
        await Eventually.TrueAsync(() => runs.Count == 1);
        var later = new[] { commits.RunAsync(2, RunAsync), commits.RunAsync(3, RunAsync) };
        gate.SetResult();

        await Assert.ThrowsAsync<InvalidDataException>(() => first);
        var results = await Task.WhenAll(later);
        Assert.Equal([2, 2], results);
        Assert.Equal([[1], [2, 3]], runs);
    }

    [Fact]
    public async Task An_entry_over_the_limit_is_served_and_not_cached_and_no_older_one_is_served_after_it()
    {
        await using var node = await CacheNode.StartAsync(servers, options => options.MaxEntryBytes = 1024);
        var engine = new Engine(node.Services, new() { MemoryTtl = TimeSpan.FromMinutes(1), StaleFor = TimeSpan.FromHours(1) });
        var large = new string('x', 2000);
        await engine.GetAsync(new Thing("small", 1));

        await engine.PutAsync(engine.Key(), new(large, 2), CancellationToken.None);
        for (var read = 0; read < 2; read++)
        {
            var result = await engine.GetAsync(new Thing(large, 2));
            Assert.Equal((large, CacheOutcome.Miss, false), (Engine.Read(result)!.Name, result.Outcome, result.Stored));
        }

        Assert.Equal(3, node.Metric("cache.oversized", ("cache", "things")));
        Assert.Single(node.Log, line => line.Contains("Cache:MaxEntryBytes", StringComparison.Ordinal));
        Assert.Equal("small again", Engine.Read(await engine.GetAsync(new Thing("small again", 3)))!.Name);
        Assert.Equal(CacheOutcome.MemoryHit, (await engine.GetAsync(new Thing("never loaded", 3))).Outcome);
    }

    [Fact]
    public async Task A_write_that_arrives_after_the_life_of_a_tombstone_becomes_one()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var (tier, namespaces) = (node.Services.GetRequiredService<RedisTier>(), node.Services.GetRequiredService<Namespaces>());
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("another", 1), "2");
        var longAgo = Moment.Now.Plus(-Invalidation.TombstoneTtl - TimeSpan.FromMilliseconds(1));

        // 1. Version 2 is committed, and its put is held up; 2. version 3 is committed, and its tombstone expires; 3. the put arrives.
        var key = namespaces.Key(engine.Cache, await namespaces.CurrentAsync("things", CancellationToken.None), "1");
        var late = CacheEntry.Of(key, engine.Cache, new Thing("late", 2), TimeSpan.Zero, TimeProvider.System.GetUtcNow());
        var write = await tier.WriteAsync("things", "1", key, late, TimeSpan.FromMinutes(1), longAgo, CancellationToken.None);

        Assert.Equal(WriteState.Late, write.State);
        var held = (await tier.LookAsync(key, CancellationToken.None)).Entry!;
        Assert.Equal((EntryKind.Tombstone, new Revision(2)), (held.Kind, held.Revision));
        Assert.Equal("newest", Engine.Read(await engine.GetAsync(new Thing("newest", 3)))!.Name);

        await engine.WriteThrough.PutAsync(engine.Key(), new("in time", 4), Moment.Now, CancellationToken.None);
        Assert.Equal("in time", Engine.Read(await engine.GetAsync(new Thing("never loaded", 4)))!.Name);
    }

    [Fact]
    public async Task A_slow_write_is_not_kept_if_redis_may_have_evicted_a_later_one()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, new CacheOptions { MemoryTtl = TimeSpan.FromHours(1) });
        await engine.GetAsync(new Thing("another", 1), "2");
        var known = Moment.Now.Milliseconds; // the generation
        await Eventually.TrueAsync(() => Moment.Now.Milliseconds > known + 1100);
        var aWhileAgo = Moment.Now.Plus(-TimeSpan.FromMilliseconds(1100));

        // 1. Version 2 is committed; 2. version 3 is committed, and Redis evicts its tombstone; 3. the put of version 2 arrives.
        await engine.WriteThrough.PutAsync(engine.Key(), new("late", 2), aWhileAgo, CancellationToken.None);
        Assert.Equal("newest", Engine.Read(await engine.GetAsync(new Thing("newest", 3)))!.Name);

        // Redis has an older entry, so nothing was evicted.
        await engine.WriteThrough.PutAsync(engine.Key(), new("slow", 4), aWhileAgo, CancellationToken.None);
        Assert.Equal("slow", Engine.Read(await engine.GetAsync(new Thing("never loaded", 4)))!.Name);
    }

    /// <remarks>Found by seed 1478 of the simulation "keys are evicted".</remarks>
    [Fact]
    public async Task A_slow_write_of_a_process_that_does_not_know_the_time_of_redis_is_not_kept_either()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await connection.GetServers()[0].ExecuteAsync("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-info");
        await using var other = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        await using var node = await CacheNode.StartAsync(
            servers, CacheNode.On($"{redis.ConnectionString},user=limited,password=secret"), nodeOf: other);
        var options = new CacheOptions { MemoryTtl = TimeSpan.FromHours(1) };
        var (engine, first) = (new Engine(node.Services, options), new Engine(other.Services, options));

        // The process may not ask for the time with INFO, and has the generation from a message, so no reply with a time has arrived.
        await first.GetAsync(new Thing("another", 1), "2");
        var things = node.Services.GetRequiredService<Namespaces>().Of("things");
        await Eventually.TrueAsync(() => things.Current.Generation is not null);
        var known = Moment.Now.Milliseconds;
        await Eventually.TrueAsync(() => Moment.Now.Milliseconds > known + 1100);

        // 1. Version 2 is committed; 2. version 3 is committed, and Redis evicts its entry; 3. the put of version 2 arrives.
        var aWhileAgo = Moment.Now.Plus(-TimeSpan.FromMilliseconds(1050));
        await engine.WriteThrough.PutAsync(engine.Key(), new("late", 2), aWhileAgo, CancellationToken.None);
        Assert.Equal("newest", Engine.Read(await engine.GetAsync(new Thing("newest", 3)))!.Name);
    }

    [Fact]
    public async Task The_first_write_of_a_process_is_cached_because_it_knows_the_time_of_redis_from_its_start()
    {
        await using var node = await CacheNode.StartAsync(servers);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        var (engine, first) = (new Engine(node.Services), new Engine(other.Services));
        await first.GetAsync(new Thing("another", 1), "2");
        var things = node.Services.GetRequiredService<Namespaces>().Of("things");
        await Eventually.TrueAsync(() => things.Current.Generation is not null);

        await engine.WriteThrough.PutAsync(engine.Key(), new("written", 2), Moment.Now, CancellationToken.None);
        Assert.Equal("written", Engine.Read(await first.GetAsync(new Thing("not loaded", 2)))!.Name);
    }

    private static CircuitBreaker Circuit(TimeSpan deadline) => new(deadline);

    /// <summary>Fails three times over ten milliseconds.</summary>
    private static async Task FailAsync(CircuitBreaker circuit)
    {
        for (var failure = 0; failure < 3; failure++)
        {
            circuit.Failed();
            var until = Environment.TickCount64 + 5;
            await Eventually.TrueAsync(() => Environment.TickCount64 >= until);
        }
    }
}
