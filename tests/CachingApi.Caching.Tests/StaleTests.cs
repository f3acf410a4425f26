using CachingApi.Tests.Servers;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Caching.Tests;

/// <summary>Between "fresh until" and "usable until".</summary>
public sealed class StaleTests(TestServers servers)
{
    private static readonly CacheOptions Settings = new()
    {
        MemoryTtl = TimeSpan.Zero,
        Ttl = TimeSpan.FromMinutes(1),
        StaleFor = TimeSpan.FromMinutes(10),
        EarlyRefresh = false,
    };

    [Fact]
    public async Task A_slow_load_is_not_waited_for_and_goes_on_as_one()
    {
        var (node, engine, time) = await StartAsync();
        await using var _ = node;
        await engine.GetAsync(new Thing("old", 1));
        time.Advance(TimeSpan.FromMinutes(2));
        var slow = new SlowLoad(() => new("new", 2));

        for (var read = 0; read < 5; read++)
        {
            var stale = await engine.GetAsync(slow.RunAsync);
            Assert.Equal(CacheOutcome.StaleWhileRevalidate, stale.Outcome);
            Assert.Equal("old", Engine.Read(stale)!.Name);
        }

        Assert.Equal(1, slow.Runs);
        slow.GoOn();
        await Eventually.TrueAsync(async () => Engine.Read(await engine.GetAsync(slow.RunAsync))!.Name == "new");
        Assert.Equal(1, slow.Runs);
    }

    [Fact]
    public async Task A_fast_load_is_waited_for()
    {
        var (node, engine, time) = await StartAsync();
        await using var _ = node;
        await engine.GetAsync(new Thing("old", 1));
        time.Advance(TimeSpan.FromMinutes(2));

        var result = await engine.GetAsync(new Thing("new", 2));

        Assert.Equal((CacheOutcome.Refreshed, "new"), (result.Outcome, Engine.Read(result)!.Name));
    }

    [Fact]
    public async Task A_failing_load_is_answered_by_the_stale_entry_while_it_is_usable()
    {
        var (node, engine, time) = await StartAsync();
        await using var _ = node;
        await engine.GetAsync(new Thing("old", 1));

        time.Advance(TimeSpan.FromMinutes(2));
        var stale = await engine.GetAsync(_ => throw new InvalidDataException("broken"));
        Assert.Equal((CacheOutcome.StaleIfError, "old"), (stale.Outcome, Engine.Read(stale)!.Name));

        time.Advance(TimeSpan.FromMinutes(10));
        await Assert.ThrowsAsync<InvalidDataException>(() => engine.GetAsync(_ => throw new InvalidDataException("broken")));
    }

    [Fact]
    public async Task A_look_up_counts_even_if_its_load_fails_or_is_not_admitted()
    {
        var (node, engine, _) = await StartAsync();
        await using var _1 = node;
        double Misses() => node.Metric("cache.requests", ("cache", "things"), ("tier", "redis"), ("result", "miss"));

        await Assert.ThrowsAsync<InvalidDataException>(() => engine.GetAsync(_ => throw new InvalidDataException("broken")));
        Assert.Equal(1, Misses());

        await Assert.ThrowsAsync<InvalidOperationException>(async () => await engine.CacheAside.GetAsync(
            engine.Key(),
            _ => Task.FromResult<Thing?>(new("it", 1)),
            _ => throw new InvalidOperationException("not admitted"),
            CancellationToken.None));
        Assert.Equal(2, Misses());

        await engine.GetAsync(new Thing("it", 1));
        await engine.GetAsync(new Thing("it", 1));
        Assert.Equal(3, Misses());
        Assert.Equal(1, node.Metric("cache.requests", ("cache", "things"), ("tier", "redis"), ("result", "hit")));
    }

    private async Task<(CacheNode Node, Engine Engine, FakeTimeProvider Time)> StartAsync()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        // On a busy machine, even a fast load may be slow.
        var node = await CacheNode.StartAsync(servers, options => options.SoftTimeout = TimeSpan.FromSeconds(1), time: time);
        return (node, new Engine(node.Services, Settings), time);
    }
}
