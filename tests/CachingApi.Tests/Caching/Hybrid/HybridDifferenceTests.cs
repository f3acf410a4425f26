using CachingApi.Tests.Servers;
using Microsoft.Extensions.Caching.Hybrid;

namespace CachingApi.Tests.Caching.Hybrid;

/// <summary>The differences between Microsoft's implementation and the library's: both behaviours, and the reason.</summary>
public sealed class HybridDifferenceTests(TestServers servers)
{
    public static TheoryData<Implementation, bool> Everywhere => HybridContractTests.Everywhere;

    // Microsoft's stores the old value after the removal, where it stays until it expires. Ours: the removal removes the load's lease.
    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_load_of_a_key_that_is_removed_meanwhile(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await LosesARaceAsync(node, _ => node.Cache.RemoveAsync("key"));
    }

    // Microsoft's gives the loaded value a time stamp from after the removal, so the removal does not apply to it. Ours: the entry holds
    // the tag's stamp from before the load.
    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_load_of_a_key_whose_tag_is_removed_meanwhile(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await LosesARaceAsync(node, _ => node.Cache.RemoveByTagAsync("tag"));
        await LosesARaceAsync(node, _ => node.Cache.RemoveByTagAsync("*"), "key of another race");
    }

    // Microsoft's stores the loaded value over the one that was set while it was loading.
    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_load_of_a_key_that_is_set_meanwhile(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await LosesARaceAsync(node, value => node.Cache.SetAsync("key", value));
    }

    // Microsoft's has no messages between processes: the other one's memory keeps what was removed or set until it expires
    // (dotnet/extensions#5674, dotnet/runtime#125602). It does not ask again for a tag that it has seen either (dotnet/extensions#7771).
    [Theory]
    [InlineData(Implementation.Microsoft)]
    [InlineData(Implementation.Ours)]
    public async Task The_memory_of_another_process(Implementation implementation)
    {
        await using var node = await StartAsync(implementation, withRedis: true);
        await using var other = await node.StartOtherAsync();
        Dictionary<string, Func<string, ValueTask>> changes = new()
        {
            ["set"] = key => node.Cache.SetAsync(key, "new"),
            ["removed"] = key => node.Cache.RemoveAsync(key),
            ["tag removed"] = _ => node.Cache.RemoveByTagAsync("tag"),
            ["all removed"] = _ => node.Cache.RemoveByTagAsync("*"),
        };
        foreach (var (key, change) in changes)
        {
            await node.Cache.SetAsync(key, "old", tags: ["tag"]);
            await Eventually.TrueAsync(
                async () =>
                {
                    Assert.Equal("old", await other.Cache.GetOrCreateAsync(key, New, tags: ["tag"]));
                    return await other.InMemoryAsync<string?>(key) == "old";
                },
                "the other process to have it in memory");

            await change(key);
            if (implementation is Implementation.Microsoft)
            {
                Assert.Equal("old", await other.Cache.GetOrCreateAsync(key, New, tags: ["tag"]));
                continue;
            }

            await Eventually.TrueAsync(async () => await other.Cache.GetOrCreateAsync(key, New, tags: ["tag"]) == "new", "the message");
            for (var read = 0; read < 100; read++)
            {
                Assert.Equal("new", await other.Cache.GetOrCreateAsync(key, New, tags: ["tag"]));
            }
        }
    }

    // Microsoft's shares a load in one process. Ours gives one process at a time the lease to load.
    [Theory]
    [InlineData(Implementation.Microsoft, 8)]
    [InlineData(Implementation.Ours, 1)]
    public async Task Eight_processes_with_a_hundred_callers_each(Implementation implementation, int loads)
    {
        await using var first = await StartAsync(implementation, withRedis: true);
        var nodes = new List<HybridNode> { first };
        try
        {
            while (nodes.Count < 8)
            {
                nodes.Add(await first.StartOtherAsync());
            }

            var source = new Source<string>("it");
            source.Hold();
            var callers = nodes
                .SelectMany(node => Enumerable.Repeat(node.Cache, 100))
                .Select(cache => cache.GetOrCreateAsync("key", source.LoadAsync, tags: ["tag"]).AsTask())
                .ToList();
            await Eventually.TrueAsync(() => source.Loads == loads, "the loads to begin");
            source.Release();

            Assert.All(await Task.WhenAll(callers), value => Assert.Equal("it", value));
            Assert.Equal(loads, source.Loads);
        }
        finally
        {
            foreach (var other in nodes.Skip(1))
            {
                await other.DisposeAsync();
            }
        }
    }

    // Microsoft's keeps a value over the limit in memory if nothing can change it, and a mutable one too, as an object. Ours does not cache
    // it at all: the limit protects memory as well.
    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_value_over_the_payload_limit(Implementation implementation, bool withRedis)
    {
        await using var node = await HybridNode.StartAsync(
            implementation, withRedis ? servers.Redis : null, settings: settings => settings.MaximumPayloadBytes = 1000);
        var large = new Source<string>(new string('x', 1001));
        Assert.Equal(large.Value, await node.Cache.GetOrCreateAsync("large", large.LoadAsync));
        Assert.Equal(large.Value, await node.Cache.GetOrCreateAsync("large", large.LoadAsync));
        Assert.Null(await node.InRedisAsync<string?>("large"));
        Assert.Equal(implementation is Implementation.Microsoft ? 1 : 2, large.Loads);

        var small = new Source<string>(new string('x', 1000));
        await node.Cache.GetOrCreateAsync("small", small.LoadAsync);
        await node.Cache.GetOrCreateAsync("small", small.LoadAsync);
        Assert.Equal(1, small.Loads);
    }

    // Microsoft's leaves the value from before in Redis. Ours removes it: a value that was set replaces what was there, cached or not.
    [Theory]
    [InlineData(Implementation.Microsoft, "old")]
    [InlineData(Implementation.Ours, null)]
    public async Task A_value_over_the_payload_limit_that_is_set(Implementation implementation, string? inRedis)
    {
        await using var node = await HybridNode.StartAsync(
            implementation, servers.Redis, settings: settings => settings.MaximumPayloadBytes = 1000);
        await node.Cache.SetAsync("key", "old");
        await node.Cache.SetAsync("key", new string('x', 1001));

        Assert.Equal(inRedis, await node.InRedisAsync<string?>("key"));
    }

    // Microsoft's reads the bytes of the one type as the other one, or loads again if they are in memory only, so two callers replace each
    // other's value for ever. Ours throws an exception that names the problem.
    [Theory, MemberData(nameof(Everywhere))]
    public async Task Two_types_under_one_key(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await node.Cache.SetAsync("key", 42);
        var read = node.Cache.GetOrCreateAsync("key", new Source<string>("text").LoadAsync).AsTask();
        if (implementation is Implementation.Microsoft)
        {
            Assert.Equal(withRedis ? "42" : "text", await read);
            return;
        }

        var error = await Assert.ThrowsAsync<InvalidOperationException>(() => read);
        Assert.Equal(
            "The key 'key' holds a System.Int32 and is read as a System.String: use different keys for different types.", error.Message);
        await Assert.ThrowsAsync<InvalidOperationException>(() => node.InRedisOrMemoryAsync<string>("key").AsTask());
        Assert.Equal(42, await node.Cache.GetOrCreateAsync("key", new Source<int>(0).LoadAsync));
    }

    // Microsoft's stores a null string in Redis as an empty one. Ours stores null.
    [Theory]
    [InlineData(Implementation.Microsoft, "")]
    [InlineData(Implementation.Ours, null)]
    public async Task A_text_that_is_null(Implementation implementation, string? inRedis)
    {
        await using var node = await StartAsync(implementation, withRedis: true);
        var source = new Source<string?>(null);
        Assert.Null(await node.Cache.GetOrCreateAsync("key", source.LoadAsync));
        Assert.Null(await node.Cache.GetOrCreateAsync("key", source.LoadAsync));
        Assert.Equal(1, source.Loads);

        var only = new HybridCacheEntryOptions { Flags = HybridCacheEntryFlags.DisableLocalCacheRead };
        Assert.Equal(inRedis, await node.Cache.GetOrCreateAsync("key", source.LoadAsync, only));
        Assert.Equal(1, source.Loads);
    }

    // Microsoft's cancels the factory's token when the last caller has cancelled. Ours lets the load go on, up to
    // CachingOptions.LoadTimeout: the next caller finds the value.
    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_load_whose_only_caller_cancels(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        using var cancel = new CancellationTokenSource();
        var ended = new TaskCompletionSource<bool>();
        var begun = new TaskCompletionSource();
        var gate = new TaskCompletionSource();
        var caller = node.Cache.GetOrCreateAsync(
            "key",
            async stop =>
            {
                begun.SetResult();
                using var registration = stop.Register(() => ended.TrySetResult(false));
                await Task.WhenAny(gate.Task, ended.Task);
                ended.TrySetResult(true);
                return "it";
            },
            cancellationToken: cancel.Token).AsTask();

        await begun.Task;
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => caller);
        if (implementation is Implementation.Microsoft)
        {
            Assert.False(await ended.Task);
            return;
        }

        gate.SetResult();
        Assert.True(await ended.Task);
        await Eventually.TrueAsync(async () => await node.InRedisOrMemoryAsync<string?>("key") == "it", "the value to be cached");
    }

    private static ValueTask<string> New(CancellationToken cancel) => ValueTask.FromResult("new");

    /// <summary>A load reads the old value, the source and the cache are changed, and the load goes on.</summary>
    private static async Task LosesARaceAsync(HybridNode node, Func<string, ValueTask> change, string key = "key")
    {
        var source = new Source<string>("old");
        source.Hold();

        var reader = node.Cache.GetOrCreateAsync(key, source.LoadAsync, tags: ["tag"]).AsTask();
        await source.HasRead;
        source.Value = "new";
        await change("new");
        source.Release();
        await reader;

        var next = await node.Cache.GetOrCreateAsync(key, source.LoadAsync, tags: ["tag"]);
        Assert.Equal(node.Implementation is Implementation.Microsoft ? "old" : "new", next);
        if (node.Redis is not null)
        {
            Assert.NotEqual(node.Implementation is Implementation.Microsoft ? "new" : "old", await node.InRedisAsync<string?>(key));
        }
    }

    private Task<HybridNode> StartAsync(Implementation implementation, bool withRedis) =>
        HybridNode.StartAsync(implementation, withRedis ? servers.Redis : null);
}
