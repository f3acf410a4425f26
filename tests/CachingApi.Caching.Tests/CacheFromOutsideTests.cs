using CachingApi.Caching.Operations;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching.Tests;

/// <summary>Uses of a cache by its public members that are easy to get wrong.</summary>
public sealed class CacheFromOutsideTests(TestServers servers)
{
    [Theory]
    [InlineData(WriteStrategy.WriteThrough)]
    [InlineData(WriteStrategy.Invalidate)]
    public async Task Versions_that_a_lua_number_does_not_hold_are_ordered(WriteStrategy strategy)
    {
        var version = DateTime.MaxValue.Ticks;
        await using var node = await StartAsync();
        await using var other = await StartAsync(nodeOf: node);
        var (items, there) = (Items(node), Items(other));
        var row = new Item("old", version);
        await items.GetAsync("1", _ => Task.FromResult<Item?>(row), CancellationToken.None);
        await there.GetAsync("1", _ => Task.FromResult<Item?>(row), CancellationToken.None);

        row = new("new", version + 1);
        await items.WriteAsync("1", strategy, (_, _) => Committed(row), CancellationToken.None);

        Assert.Equal("new", (await items.GetAsync("1", _ => Task.FromResult<Item?>(row), CancellationToken.None)).Value!.Name);
        await Eventually.TrueAsync(
            async () => (await there.GetAsync("1", _ => Task.FromResult<Item?>(row), CancellationToken.None)).Value!.Name == "new");
        await node.Services.GetRequiredService<WriteThrough>().PutAsync(
            items.Key("1"), new("late", version), Redis.Moment.Now, CancellationToken.None);
        items.EvictFromMemory("1");
        Assert.Equal("new", (await items.GetAsync("1", _ => Task.FromResult<Item?>(row), CancellationToken.None)).Value!.Name);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_commit_that_returns_no_value_invalidates_the_entry(bool withRedis)
    {
        await using var node = await StartAsync(withRedis);
        var items = Items(node);
        Item? row = new("old", 1);
        await GetAsync();

        row = new("new", 2);
        await items.WriteAsync(
            "1", WriteStrategy.WriteThrough, (_, _) => Task.FromResult<WriteResult<Item>>(WriteOutcome.Committed), CancellationToken.None);
        Assert.Equal("new", (await GetAsync()).Value!.Name);

        row = null;
        await items.DeleteAsync("1", (_, _) => Task.FromResult<WriteResult<Item>>(WriteOutcome.Committed), CancellationToken.None);
        Assert.False((await GetAsync()).Found);

        ValueTask<CacheResult<Item>> GetAsync() => items.GetAsync("1", _ => Task.FromResult(row), CancellationToken.None);
    }

    /// <summary>The clear must not count as that of a later change, which change data capture reports.</summary>
    [Fact]
    public async Task After_a_commit_that_returns_no_value_a_later_change_clears_the_dependents()
    {
        await using var node = await CacheNode.StartAsync(servers, services: services => services.AddCaching()
            .AddCache<Item>("items", cache => cache.Json(ItemJson.Default.Item).Version(item => item.Version).Clears("names"))
            .AddCache<Rename>("names", cache => cache.Json(ItemJson.Default.Rename)));
        var (items, names) = (Items(node), node.Services.GetRequiredService<Cache<Rename>>());
        Assert.Equal("first", await NamesAsync("first"));

        await items.WriteAsync(
            "1", WriteStrategy.Invalidate, (_, _) => Task.FromResult<WriteResult<Item>>(WriteOutcome.Committed), CancellationToken.None);
        Assert.Equal("second", await NamesAsync("second"));

        await items.ClearDependentsAsync([new EntityChange("1", new(5))], CancellationToken.None);
        Assert.Equal("third", await NamesAsync("third"));

        async Task<string> NamesAsync(string now) =>
            (await names.GetAsync("all", _ => Task.FromResult<Rename?>(new(now)), CancellationToken.None)).Value!.Name;
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Not_found_ends_with_a_create_of_version_0(bool withRedis)
    {
        await using var node = await StartAsync(withRedis);
        var items = Items(node);
        Assert.False((await items.GetAsync("1", _ => Task.FromResult<Item?>(null), CancellationToken.None)).Found);

        var created = new Item("created", 0);
        await items.InvalidateAsync("1", created, CancellationToken.None);

        Assert.True((await items.GetAsync("1", _ => Task.FromResult<Item?>(created), CancellationToken.None)).Found);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task If_the_cache_cannot_be_updated_after_the_commit_the_entry_is_invalidated(bool withRedis)
    {
        await using var node = await StartAsync(withRedis, configure: cache => cache.FreshUntil(
            _ => (item, now) => item.Name == "broken" ? throw new FormatException("This value has no lifetime.") : now.AddHours(1)));
        var items = Items(node);
        await items.GetAsync("1", _ => Task.FromResult<Item?>(new("old", 1)), CancellationToken.None);

        await Assert.ThrowsAsync<FormatException>(() => items.WriteAsync(
            "1", WriteStrategy.WriteThrough, (_, _) => Committed(new("broken", 2)), CancellationToken.None));

        var read = await items.GetAsync("1", _ => Task.FromResult<Item?>(new("repaired", 2)), CancellationToken.None);
        Assert.Equal("repaired", read.Value!.Name);
    }

    [Fact]
    public async Task In_memory_an_earlier_write_does_not_take_the_place_of_a_later_one_that_was_evicted()
    {
        await using var node = await StartAsync(withRedis: false);
        var items = Items(node);
        await items.WriteAsync("1", WriteStrategy.WriteThrough, (_, _) => Committed(new("third", 3)), CancellationToken.None);
        items.EvictFromMemory("1");

        await items.WriteAsync("1", WriteStrategy.WriteThrough, (_, _) => Committed(new("second", 2)), CancellationToken.None);

        var read = await items.GetAsync("1", _ => Task.FromResult<Item?>(new("third", 3)), CancellationToken.None);
        Assert.Equal("third", read.Value!.Name);
    }

    [Theory]
    [InlineData("a}b")]
    [InlineData("a{b}c")]
    [InlineData("{}")]
    [InlineData("100%")]
    [InlineData("a%7Db")]
    public async Task An_id_may_have_braces(string id)
    {
        await using var node = await StartAsync();
        var items = Items(node);
        var row = new Item("old", 1);
        await items.GetAsync(id, _ => Task.FromResult<Item?>(row), CancellationToken.None);

        row = new("new", 2);
        await items.WriteAsync(id, WriteStrategy.Invalidate, (_, _) => Committed(row), CancellationToken.None);

        var read = await items.GetAsync(id, _ => Task.FromResult<Item?>(row), CancellationToken.None);
        Assert.Equal(("new", CacheOutcome.Miss), (read.Value!.Name, read.Outcome));
    }

    [Fact]
    public async Task An_id_that_is_not_unicode_is_refused()
    {
        await using var node = await StartAsync();
        await Assert.ThrowsAsync<ArgumentException>(
            async () => await Items(node).GetAsync("\uD800", _ => Task.FromResult<Item?>(new("it", 1)), CancellationToken.None));
    }

    [Fact]
    public async Task Without_redis_a_commit_with_a_fence_takes_place()
    {
        var shelf = new Shelf { ["1"] = new("old", 1) };
        await using var node = await StartAsync(withRedis: false, shelf, cache => cache
            .Fence(item => item.Fence)
            .LoadWith<Shelf>((from, id, _) => from.FindAsync(id))
            .WriteBehindWith<Shelf, Rename>(ItemJson.Default.Rename));
        var (commits, last) = (0, 0L);

        for (var write = 0; write < 2; write++)
        {
            var written = await Items(node).WriteAsync(
                "1",
                WriteStrategy.WriteThrough,
                (fence, _) => Interlocked.Increment(ref commits) > 10 ? throw new InvalidOperationException("It commits again and again.")
                    : fence.Token <= last ? Task.FromResult(new WriteResult<Item>(WriteOutcome.Superseded, Fence: last))
                    : Committed(new("new", 2 + write) { Fence = last = fence.Token }),
                CancellationToken.None);
            Assert.Equal(WriteOutcome.Committed, written.Outcome);
        }
    }

    [Fact]
    public async Task Loads_that_read_another_cache_and_their_own_do_not_wait_for_each_other()
    {
        await using var node = await CacheNode.StartAsync(servers, services: services => services.AddCaching()
            .AddCache<Item>("items", cache => cache.Json(ItemJson.Default.Item))
            .AddCache<Rename>("names", cache => cache.Json(ItemJson.Default.Rename)));
        var (items, names) = (Items(node), node.Services.GetRequiredService<Cache<Rename>>());

        await Task.WhenAll(Enumerable.Range(0, 200).Select(number => items.GetAsync($"outer {number}", async stop =>
        {
            await Task.Yield();
            return new((await names.GetAsync($"{number}", async inner =>
                new Rename((await items.GetAsync($"inner {number}", _ => Task.FromResult<Item?>(new("it", 1)), inner)).Value!.Name), stop))
                .Value!.Name, 1);
        }, CancellationToken.None).AsTask())).WaitAsync(TimeSpan.FromSeconds(30));
    }

    [Fact]
    public async Task A_declaration_that_cannot_work_is_refused_and_named()
    {
        var caching = new ServiceCollection().AddLogging().AddCaching();
        caching.AddCache<Item>("items", cache => cache.Json(ItemJson.Default.Item).Options<WrongOptions>());
        caching.Services.AddSingleton(Options.Create(new WrongOptions()));
        var taken = Assert.Throws<InvalidOperationException>(
            () => caching.AddCache<Rename>("items", cache => cache.Json(ItemJson.Default.Rename)));
        Assert.Contains("items", taken.Message, StringComparison.Ordinal);
        await using var services = caching.Services.BuildServiceProvider();
        var outOfRange = Assert.Throws<OptionsValidationException>(services.GetRequiredService<Cache<Item>>);
        Assert.Contains("MemoryEntries", outOfRange.Message, StringComparison.Ordinal);

        var unversioned = new ServiceCollection().AddLogging().AddCaching().AddCache<Item>("items", cache => cache
            .Json(ItemJson.Default.Item).WriteBehindWith<Shelf, Rename>(ItemJson.Default.Rename));
        await using var others = unversioned.Services.BuildServiceProvider();
        var noVersion = Assert.Throws<InvalidOperationException>(others.GetRequiredService<Cache<Item>>);
        Assert.Contains("Version", noVersion.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_log_names_a_cache_that_another_clears_and_that_is_not_declared()
    {
        await using var node = await CacheNode.StartAsync(
            servers,
            options => options.Redis = options.RedisState = null,
            services: services => services.AddCaching()
                .AddCache<Item>("items", cache => cache.Json(ItemJson.Default.Item).Clears("names", "lists"))
                .AddCache<Rename>("names", cache => cache.Json(ItemJson.Default.Rename)));

        node.Services.GetRequiredService<Cache<Item>>();

        Assert.Equal(
            "The cache items clears lists, but this service has no cache of that name",
            Assert.Single(node.Log, line => line.Contains(" clears ", StringComparison.Ordinal)).Trim());
    }

    [Fact]
    public async Task A_host_that_is_disposed_without_a_stop_logs_no_fault()
    {
        var node = await StartAsync();
        await Items(node).GetAsync("1", _ => Task.FromResult<Item?>(new("it", 1)), CancellationToken.None);

        var running = node.Services.GetServices<IHostedService>().OfType<BackgroundService>()
            .Select(service => service.ExecuteTask).OfType<Task>().ToArray();

        node.DisposeHost();

        // Because the host was not stopped, a cancelled service would be logged as a fault.
        await Task.WhenAll(running).WaitAsync(TimeSpan.FromSeconds(30));
    }

    private static Cache<Item> Items(CacheNode node) => node.Services.GetRequiredService<Cache<Item>>();

    private static Task<WriteResult<Item>> Committed(Item item) => Task.FromResult<WriteResult<Item>>(item);

    private Task<CacheNode> StartAsync(
        bool withRedis = true, Shelf? shelf = null, Action<CacheBuilder<Item>>? configure = null, CacheNode? nodeOf = null) =>
        CacheNode.StartAsync(
            servers,
            options => (options.Redis, options.RedisState) = withRedis ? (options.Redis, options.RedisState) : (null, null),
            nodeOf: nodeOf,
            services: services =>
            {
                services.AddSingleton(shelf ?? new Shelf());
                services.AddCaching().AddCache<Item>("items", cache =>
                {
                    cache.Json(ItemJson.Default.Item).Version(item => item.Version).Configure(options => options.EarlyRefresh = false);
                    configure?.Invoke(cache);
                });
            });

    private sealed class WrongOptions : CacheOptions
    {
        public WrongOptions() => MemoryEntries = 0;
    }
}
