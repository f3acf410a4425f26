using CachingApi.Tests.Servers;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Caching.Tests;

public sealed class EarlyRefreshTests(TestServers servers)
{
    /// <summary>P(due at t before expiry) = P(-δ·ln u ≥ t) = e^(-t/δ).</summary>
    [Theory]
    [InlineData(0.0, 1.0)]
    [InlineData(0.5, 0.6065)]
    [InlineData(1.0, 0.3679)]
    [InlineData(3.0, 0.0498)]
    public void The_chance_to_refresh_grows_as_expiry_nears(double loadTimesLeft, double expected)
    {
        var random = new Random(4711);
        var refresh = new EarlyRefresh(random.NextDouble);
        var now = DateTimeOffset.UnixEpoch;
        var loadTime = TimeSpan.FromMilliseconds(100);
        const int Draws = 100_000;

        var due = Enumerable.Range(0, Draws).Count(_ => refresh.IsDue(now + loadTime * loadTimesLeft, loadTime, now));

        // Five standard deviations, at the seed above.
        Assert.InRange((double)due / Draws, expected - 0.008, expected + 0.008);
    }

    [Fact]
    public async Task A_client_that_may_not_refresh_does_not_do_so_early_either()
    {
        var admitted = false;
        await using var node = await CacheNode.StartAsync(servers);
        // The load took an hour, so a refresh is due at once.
        var engine = new Engine(node.Services, new() { Ttl = TimeSpan.FromMinutes(1), MemoryTtl = TimeSpan.FromMinutes(1) });
        await engine.PutAsync(engine.Key(), new("old", 1), CancellationToken.None);
        engine.Cache.LastLoadTime = TimeSpan.FromHours(1);
        await engine.PutAsync(engine.Key(), new("old", 2), CancellationToken.None);
        var loads = 0;
        async Task<CacheOutcome> ReadAsync() => (await engine.CacheAside.GetAsync(
            engine.Key(),
            _ =>
            {
                Interlocked.Increment(ref loads);
                return Task.FromResult<Thing?>(new("new", 3));
            },
            isCached =>
            {
                Assert.True(isCached);
                return Task.FromResult(admitted);
            },
            CancellationToken.None)).Outcome;

        for (var read = 0; read < 50; read++)
        {
            Assert.Contains(await ReadAsync(), new[] { CacheOutcome.MemoryHit, CacheOutcome.RedisHit });
        }

        await Eventually.TrueAsync(async () => await ReadAsync() is CacheOutcome.MemoryHit);
        await Eventually.TrueAsync(() => engine.Flights.Count == 0); // a refresh would have begun one
        Assert.Equal(0, loads);
        admitted = true;
        await Eventually.TrueAsync(async () =>
        {
            await ReadAsync();
            return Volatile.Read(ref loads) > 0;
        }, "an early refresh");
    }

    [Fact]
    public void Long_before_expiry_no_reader_refreshes() =>
        Assert.False(new EarlyRefresh(() => 1 - 1e-16).IsDue(
            DateTimeOffset.UnixEpoch.AddSeconds(60), TimeSpan.FromSeconds(1), DateTimeOffset.UnixEpoch));

    [Fact]
    public async Task Under_steady_load_one_refresh_per_lifetime_takes_place_before_any_reader_has_to_wait()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var node = await CacheNode.StartAsync(servers, time: time);
        await using var other = await CacheNode.StartAsync(servers, nodeOf: node, time: time);
        var settings = new CacheOptions { MemoryTtl = TimeSpan.Zero, Ttl = TimeSpan.FromSeconds(100), Jitter = 0 };
        var engines = new[] { new Engine(node.Services, settings), new Engine(other.Services, settings) };
        var loads = 0;

        // A load that costs two seconds of the test's own clock.
        Task<Thing?> LoadAsync(CancellationToken stop)
        {
            Interlocked.Increment(ref loads);
            time.Advance(TimeSpan.FromSeconds(2));
            return Task.FromResult<Thing?>(new("it", 1));
        }

        Assert.Equal(CacheOutcome.Miss, (await engines[0].GetAsync(LoadAsync)).Outcome);
        const int Lifetimes = 10;
        for (var tick = 0; tick < Lifetimes * 400; tick++)
        {
            time.Advance(TimeSpan.FromSeconds(0.25));
            var before = loads;
            var result = await engines[tick % 2].GetAsync(LoadAsync);
            Assert.Equal(CacheOutcome.RedisHit, result.Outcome);
            Assert.True(result.Entry.IsFresh(time.GetUtcNow()) || loads > before);
            // A refresh that has begun ends before the clock goes on.
            await Eventually.TrueAsync(async () => await Idle(engines[tick % 2]));
        }

        Assert.InRange(loads, Lifetimes * 0.9, Lifetimes * 1.4 + 1);
    }

    private static async Task<bool> Idle(Engine engine)
    {
        await Task.Yield();
        return engine.Flights.Count == 0;
    }
}
