using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Caching.Tests;

/// <summary>"Not found" is cached, too.</summary>
public sealed class NegativeTests(TestServers servers)
{
    [Fact]
    public async Task Not_found_is_kept_for_a_lifetime_of_its_own()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var node = await CacheNode.StartAsync(servers, time: time);
        var engine = new Engine(
            node.Services,
            new() { MemoryTtl = TimeSpan.Zero, Ttl = TimeSpan.FromHours(1), NegativeTtl = TimeSpan.FromSeconds(20), Jitter = 0 });

        Assert.Equal((false, CacheOutcome.Miss), Of(await engine.GetAsync((Thing?)null)));
        time.Advance(TimeSpan.FromSeconds(19));
        Assert.Equal((false, CacheOutcome.RedisHit), Of(await engine.GetAsync(new Thing("it", 1))));
        time.Advance(TimeSpan.FromSeconds(2));
        Assert.Equal((true, CacheOutcome.Miss), Of(await engine.GetAsync(new Thing("it", 1))));
    }

    [Fact]
    public async Task A_create_clears_it()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services);
        await engine.GetAsync((Thing?)null);

        await engine.Invalidation.InvalidateAsync(engine.Key(), new(1), CancellationToken.None);

        Assert.Equal((true, CacheOutcome.Miss), Of(await engine.GetAsync(new Thing("it", 1))));
    }

    [Fact]
    public async Task It_replaces_the_stale_entry_of_a_deleted_entity()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        // On a busy machine, even a fast load may be slow.
        await using var node = await CacheNode.StartAsync(servers, options => options.SoftTimeout = TimeSpan.FromSeconds(5), time: time);
        var engine = new Engine(
            node.Services, new() { MemoryTtl = TimeSpan.Zero, Ttl = TimeSpan.FromMinutes(1), StaleFor = TimeSpan.FromHours(1) });
        await engine.GetAsync(new Thing("it", 7));

        // The entity is deleted without an invalidation, for example in psql.
        time.Advance(TimeSpan.FromMinutes(2));

        Assert.Equal((false, CacheOutcome.Refreshed), Of(await engine.GetAsync((Thing?)null)));
        Assert.Equal((false, CacheOutcome.RedisHit), Of(await engine.GetAsync(new Thing("not asked for", 8))));
    }

    private static (bool Found, CacheOutcome Outcome) Of(CacheResult result) => (result.Found, result.Outcome);
}
