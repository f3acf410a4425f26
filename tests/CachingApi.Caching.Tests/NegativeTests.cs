using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
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

    /// <remarks>Found by seed 22864 of the simulation "creations and deletions".</remarks>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_write_that_began_before_it_does_not_replace_it(bool inRedis)
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, new() { MemoryTtl = TimeSpan.FromMinutes(5), EarlyRefresh = false });
        await engine.KnowGenerationAsync();

        // 1. A writer commits version 2; 2. the entity is deleted, and the invalidation is under way; 3. a reader is served "not found".
        var began = Moment.Now;
        if (inRedis)
        {
            Assert.False((await engine.GetAsync((Thing?)null)).Found);
        }
        else
        {
            var now = TimeProvider.System.GetUtcNow();
            node.Services.GetRequiredService<SeenRevisions>().Add(
                engine.Cache, "1", CacheEntry.Negative(new EntryKey("1"), engine.Cache.Options, default, TimeSpan.Zero, now));
        }

        // 4. The put of version 2 arrives.
        await engine.WriteThrough.PutAsync(engine.Key(), new("deleted", 2), began, CancellationToken.None);
        Assert.False((await engine.GetAsync((Thing?)null)).Found);
    }

    [Fact]
    public async Task A_write_that_begins_later_replaces_it()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var engine = new Engine(node.Services, new() { NegativeTtl = TimeSpan.FromMinutes(5), EarlyRefresh = false });
        Assert.False((await engine.GetAsync((Thing?)null)).Found);
        var cached = Moment.Now;
        await Eventually.TrueAsync(() => Moment.Now.Since(cached) > TimeSpan.FromSeconds(1.1)); // clocks may differ by a second

        await engine.PutAsync(engine.Key(), new("created", 1), CancellationToken.None);
        Assert.Equal("created", Engine.Read(await engine.GetAsync(new Thing("not loaded", 1)))!.Name);
    }

    private static (bool Found, CacheOutcome Outcome) Of(CacheResult result) => (result.Found, result.Outcome);
}
