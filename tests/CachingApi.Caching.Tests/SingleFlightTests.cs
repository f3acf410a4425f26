using CachingApi.Tests.Servers;

namespace CachingApi.Caching.Tests;

public sealed class SingleFlightTests(TestServers servers)
{
    [Fact]
    public async Task Readers_that_wait_share_one_slow_load_and_are_counted()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var slow = new SlowLoad(() => new("it", 1));

        var readers = Enumerable.Range(0, 200).Select(_ => engine.GetAsync(slow.RunAsync)).ToArray();
        await slow.HasRead;
        // All readers have found nothing in Redis, so all except the loading one wait for the load.
        await Eventually.TrueAsync(() =>
            node.Metric("cache.operation.duration", ("tier", "redis"), ("operation", "get")) >= 200);
        slow.GoOn();
        var results = await Task.WhenAll(readers);

        Assert.Equal(1, slow.Runs);
        Assert.Single(results, result => result is { Outcome: CacheOutcome.Miss, Collapsed: false });
        // A reader between its look-up and the flight may find the entry that the flight has stored.
        Assert.InRange(results.Count(result => result.Collapsed), 150, 199);
        Assert.Equal(
            results.Count(result => result.Collapsed), node.Metric("cache.coalesced", ("cache", "things")));
    }

    [Fact]
    public async Task The_double_check_finds_the_entry_of_a_load_that_has_just_ended()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var loads = 0;

        // Loads that take no time: many readers look up the key before such a load ends, and begin their own after it.
        for (var key = 0; key < 100; key++)
        {
            await Task.WhenAll(Enumerable.Range(0, 64).Select(_ => engine.GetAsync(
                _ =>
                {
                    Interlocked.Increment(ref loads);
                    return Task.FromResult<Thing?>(new("it", 1));
                },
                $"{key}")));
        }

        Assert.Equal(100, loads);
    }

    [Fact]
    public async Task A_caller_that_goes_away_does_not_end_the_load_of_the_others()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var slow = new SlowLoad(() => new("it", 1));
        using var gone = new CancellationTokenSource();

        var first = engine.CacheAside.GetAsync(engine.Key(), slow.RunAsync, null, gone.Token).AsTask();
        await slow.HasRead;
        var second = engine.GetAsync(slow.RunAsync);
        await gone.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => first);
        slow.GoOn();

        Assert.Equal("it", Engine.Read(await second)!.Name);
        Assert.Equal(1, slow.Runs);
    }

    [Fact]
    public async Task A_failing_load_fails_all_that_wait_once_and_is_not_kept()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        var gate = new TaskCompletionSource();
        var loads = 0;

        async Task<Thing?> FailAsync(CancellationToken stop)
        {
            Interlocked.Increment(ref loads);
            await gate.Task.WaitAsync(stop);
            throw new InvalidDataException("broken");
        }

        var readers = Enumerable.Range(0, 50).Select(_ => engine.GetAsync(FailAsync)).ToArray();
        await Eventually.TrueAsync(() => loads == 1);
        // Each reader has asked Redis before it waits. A reader that had not would begin a second load.
        await Eventually.TrueAsync(() =>
            node.Metric("cache.operation.duration", ("tier", "redis"), ("operation", "get")) >= 50);
        gate.SetResult();

        foreach (var reader in readers)
        {
            Assert.Equal("broken", (await Assert.ThrowsAsync<InvalidDataException>(() => reader)).Message);
        }

        Assert.InRange(loads, 1, 2);
        Assert.Equal("it", Engine.Read(await engine.GetAsync(new Thing("it", 1)))!.Name);
    }

    [Fact]
    public async Task A_load_that_takes_too_long_is_given_up()
    {
        var flights = new SingleFlight<int>(TimeSpan.FromMilliseconds(500)); // a busy machine may be slow

        await Assert.ThrowsAsync<TimeoutException>(() => flights.RunAsync(
            "key",
            0,
            TimeSpan.MaxValue,
            async stop =>
            {
                await Task.Delay(Timeout.Infinite, stop);
                return 0;
            },
            CancellationToken.None));
        Assert.Equal(1, (await flights.RunAsync("key", 0, TimeSpan.MaxValue, _ => Task.FromResult(1), CancellationToken.None)).Value);
    }

    [Fact]
    public async Task A_load_that_ignores_its_cancellation_token_blocks_no_later_reader()
    {
        var flights = new SingleFlight<int>(TimeSpan.FromMilliseconds(500)); // a busy machine may be slow
        var never = new TaskCompletionSource<int>();

        var first = flights.RunAsync("key", 0, TimeSpan.MaxValue, _ => never.Task, CancellationToken.None);
        await Assert.ThrowsAsync<TimeoutException>(() => first);

        Assert.Equal(1, (await flights.RunAsync("key", 0, TimeSpan.MaxValue, _ => Task.FromResult(1), CancellationToken.None)).Value);
    }

    [Fact]
    public async Task Its_lease_ends_at_the_time_out_and_another_node_loads()
    {
        await using var node = await CacheNode.StartAsync(servers, options => options.LoadTimeout = TimeSpan.FromMilliseconds(200));
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node);
        var (here, there) = (new Engine(node.Services), new Engine(other.Services));
        var (never, loading) = (new TaskCompletionSource<Thing?>(), new TaskCompletionSource());

        var first = here.GetAsync(_ =>
        {
            loading.SetResult();
            return never.Task;
        });
        await loading.Task;
        var second = there.GetAsync(new Thing("it", 1));

        await Assert.ThrowsAsync<TimeoutException>(() => first);
        Assert.Equal("it", Engine.Read(await second)!.Name);
        Assert.Equal("it", Engine.Read(await here.GetAsync(new Thing("never loaded", 1)))!.Name);
    }
}
