using CachingApi.Caching.Hybrid;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.Caching.Hybrid;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Tests.Caching.Hybrid;

/// <summary>
/// The documented contract of the abstract class, for Microsoft's implementation and the library's. For their differences, see
/// <see cref="HybridDifferenceTests"/>.
/// </summary>
public sealed class HybridContractTests(TestServers servers)
{
    public static TheoryData<Implementation, bool> Everywhere { get; } = new()
    {
        { Implementation.Microsoft, true },
        { Implementation.Microsoft, false },
        { Implementation.Ours, true },
        { Implementation.Ours, false },
    };

    [Theory, MemberData(nameof(Everywhere))]
    public async Task The_first_read_loads_and_the_next_ones_do_not(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var loads = 0;

        for (var read = 0; read < 3; read++)
        {
            Assert.Equal(42, await node.Cache.GetOrCreateAsync("answer", 42, (state, _) =>
            {
                loads++;
                return ValueTask.FromResult(state);
            }));
        }

        Assert.Equal(1, loads);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Keys_of_all_forms_name_the_same_entry(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var (source, id) = (new Source<string>("it"), 1);

        await node.Cache.GetOrCreateAsync("thing:1", source.LoadAsync);
        await node.Cache.GetOrCreateAsync($"thing:{id}", source.LoadAsync);
        await node.Cache.GetOrCreateAsync("thing:1".AsSpan(), source.LoadAsync);

        Assert.Equal(1, source.Loads);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_value_that_was_set_is_read_without_a_load(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await node.Cache.SetAsync("key", "first");
        await node.Cache.SetAsync("key", "second");

        Assert.Equal("second", await node.Cache.GetOrCreateAsync("key", Never<string>));
        Assert.Equal(withRedis ? "second" : null, await node.InRedisAsync<string?>("key"));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_removed_key_is_loaded_again(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var source = new Source<string>("old");
        await node.Cache.GetOrCreateAsync("key", source.LoadAsync);
        await node.StoredAsync("key");

        source.Value = "new";
        await node.Cache.RemoveAsync("key");
        Assert.Equal("new", await node.Cache.GetOrCreateAsync("key", source.LoadAsync));

        await node.Cache.RemoveAsync("never cached");
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Several_keys_are_removed_together(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await SetAsync(node, "1", "2", "3");

        await node.Cache.RemoveAsync(["1", "2"]);
        await node.Cache.RemoveAsync(Array.Empty<string>());
        await node.Cache.RemoveAsync((IEnumerable<string>)null!);

        Assert.Equal([null, null, "3"], await CachedAsync(node, "1", "2", "3"));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_removed_tag_removes_the_entries_that_carry_it(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await node.Cache.SetAsync("1", "1", tags: ["a", "b"]);
        await node.Cache.SetAsync("2", "2", tags: ["b"]);
        await node.Cache.SetAsync("3", "3");

        await node.Cache.RemoveByTagAsync("a");
        await node.Cache.RemoveByTagAsync("on no entry");
        Assert.Equal([null, "2", "3"], await CachedAsync(node, "1", "2", "3"));

        await node.Cache.SetAsync("1", "1", tags: ["a", "b"]);
        Assert.Equal(["1", "2", "3"], await CachedAsync(node, "1", "2", "3"));

        await node.Cache.RemoveByTagAsync(["b", "c"]);
        Assert.Equal([null, null, "3"], await CachedAsync(node, "1", "2", "3"));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task The_asterisk_removes_all_entries(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await node.Cache.SetAsync("1", "1", tags: ["a"]);
        await node.Cache.SetAsync("2", "2");

        await node.Cache.RemoveByTagAsync("*");
        Assert.Equal([null, null], await CachedAsync(node, "1", "2"));

        await node.Cache.SetAsync("1", "1", tags: ["a"]);
        Assert.Equal(["1", null], await CachedAsync(node, "1", "2"));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_tag_must_have_a_name(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        foreach (var tag in new[] { "", " ", "*" })
        {
            await Assert.ThrowsAsync<ArgumentException>(() => node.Cache.SetAsync("key", "it", tags: ["a", tag]).AsTask());
            await Assert.ThrowsAsync<ArgumentException>(() => node.Cache.GetOrCreateAsync("key", Never<string>, tags: [tag]).AsTask());
        }

        await node.Cache.RemoveByTagAsync("");
        await node.Cache.RemoveByTagAsync((IEnumerable<string>)null!);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Reads_of_memory_can_be_left_out(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var source = new Source<string>("it");
        await node.Cache.GetOrCreateAsync("key", source.LoadAsync);
        await node.StoredAsync("key");
        await node.Cache.GetOrCreateAsync("key", source.LoadAsync, With(HybridCacheEntryFlags.DisableLocalCacheRead));

        Assert.Equal(withRedis ? 1 : 2, source.Loads);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Writes_of_memory_can_be_left_out(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await node.Cache.GetOrCreateAsync("loaded", new Source<string>("it").LoadAsync, With(HybridCacheEntryFlags.DisableLocalCacheWrite));
        await node.Cache.SetAsync("set", "it", With(HybridCacheEntryFlags.DisableLocalCacheWrite));
        await node.StoredAsync("loaded");
        foreach (var key in new[] { "loaded", "set" })
        {
            Assert.Null(await node.InMemoryAsync<string?>(key));
            Assert.Equal(withRedis ? "it" : null, await node.InRedisAsync<string?>(key));
        }
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Reads_of_Redis_can_be_left_out(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var source = new Source<string>("old");
        await node.Cache.GetOrCreateAsync("key", source.LoadAsync);
        // Microsoft's implementation returns before it writes to Redis.
        await Eventually.TrueAsync(
            async () => await node.InRedisAsync<string?>("key") == (withRedis ? "old" : null), "the first value in Redis");
        source.Value = "new";

        var refresh = With(HybridCacheEntryFlags.DisableLocalCacheRead | HybridCacheEntryFlags.DisableDistributedCacheRead);
        Assert.Equal("new", await node.Cache.GetOrCreateAsync("key", source.LoadAsync, refresh));
        Assert.Equal("new", await node.InMemoryAsync<string?>("key"));
        Assert.Equal(withRedis ? "new" : null, await node.InRedisAsync<string?>("key"));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Writes_of_Redis_can_be_left_out(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var source = new Source<string>("it");
        await node.Cache.GetOrCreateAsync("loaded", source.LoadAsync, With(HybridCacheEntryFlags.DisableDistributedCacheWrite));
        await node.Cache.GetOrCreateAsync("around", source.LoadAsync, With(HybridCacheEntryFlags.DisableDistributedCache));
        await node.Cache.SetAsync("set", "it", With(HybridCacheEntryFlags.DisableDistributedCacheWrite));
        foreach (var key in new[] { "loaded", "around", "set" })
        {
            Assert.Equal("it", await node.InMemoryAsync<string?>(key));
            Assert.Null(await node.InRedisAsync<string?>(key));
        }
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task The_load_can_be_left_out(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var cacheOnly = With(HybridCacheEntryFlags.DisableUnderlyingData);

        Assert.Null(await node.Cache.GetOrCreateAsync("key", Never<string?>, cacheOnly));
        await node.Cache.SetAsync("key", "it");
        Assert.Equal("it", await node.Cache.GetOrCreateAsync("key", Never<string?>, cacheOnly));
        Assert.Equal(0, await node.Cache.GetOrCreateAsync("other", Never<int>, cacheOnly));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task The_default_entry_options_apply_if_a_call_has_none(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis, settings =>
            settings.DefaultEntryOptions = With(HybridCacheEntryFlags.DisableLocalCacheWrite));
        await node.Cache.SetAsync("default", "it");
        await node.Cache.SetAsync("own", "it", new() { Expiration = TimeSpan.FromMinutes(1), Flags = HybridCacheEntryFlags.None });

        Assert.Null(await node.InMemoryAsync<string?>("default"));
        Assert.Equal("it", await node.InMemoryAsync<string?>("own"));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task An_entry_expires(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        HybridCacheEntryOptions brief = new() { Expiration = TimeSpan.FromMilliseconds(300) };
        var source = new Source<string>("it");
        await node.Cache.SetAsync("set", "it", brief);
        await node.Cache.GetOrCreateAsync("loaded", source.LoadAsync, brief);

        await Eventually.TrueAsync(
            async () => (await CachedAsync(node, "set", "loaded")).All(value => value is null), "the entries to expire");
        await node.Cache.GetOrCreateAsync("loaded", source.LoadAsync);
        Assert.Equal(2, source.Loads);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task An_entry_expires_in_memory_before(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        HybridCacheEntryOptions brief = new()
        {
            Expiration = TimeSpan.FromMinutes(5),
            LocalCacheExpiration = TimeSpan.FromMilliseconds(300),
        };
        await node.Cache.SetAsync("set", "it", brief);
        await node.Cache.GetOrCreateAsync("loaded", new Source<string>("it").LoadAsync, brief);

        foreach (var key in new[] { "set", "loaded" })
        {
            await Eventually.TrueAsync(async () => await node.InMemoryAsync<string?>(key) is null, "memory to drop the entry");
            Assert.Equal(withRedis ? "it" : null, await node.InRedisAsync<string?>(key));
        }
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Values_of_many_types_are_cached(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        await RoundTripAsync(node, "text, ä €", Assert.Equal);
        await RoundTripAsync(node, "", Assert.Equal);
        await RoundTripAsync(node, new byte[] { 0, 1, 255 }, Assert.Equal);
        await RoundTripAsync(node, Array.Empty<byte>(), Assert.Equal);
        await RoundTripAsync(node, 42L, Assert.Equal);
        await RoundTripAsync(node, (int?)null, Assert.Equal);
        await RoundTripAsync(node, DateTimeOffset.UnixEpoch, Assert.Equal);
        await RoundTripAsync(node, new Price(1.5m, "EUR"), Assert.Equal);
        await RoundTripAsync(node, (Number: 1, Text: "two"), Assert.Equal);
        await RoundTripAsync(node, new List<string> { "a", "b" }, Assert.Equal);
        await RoundTripAsync<Basket?>(node, null, Assert.Equal);
        await RoundTripAsync(node, new Basket { Items = ["a"] }, (expected, actual) => Assert.Equal(expected.Items, actual.Items));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_registered_serializer_is_used(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(
            implementation, withRedis, services: services => services.AddSingleton<IHybridCacheSerializer<Angle>, AngleSerializer>());
        await RoundTripAsync(node, Angle.Of(90), (expected, actual) => Assert.Equal(expected.Degrees, actual.Degrees));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_registered_serializer_factory_is_used_for_its_types(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(
            implementation,
            withRedis,
            services: services => services.AddSingleton<IHybridCacheSerializerFactory, AngleSerializerFactory>());
        await RoundTripAsync(node, Angle.Of(90), (expected, actual) => Assert.Equal(expected.Degrees, actual.Degrees));
        await RoundTripAsync(node, new Price(2, "EUR"), Assert.Equal);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_value_with_an_invalid_key_is_loaded_each_time(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        foreach (var key in new[] { "", " ", "a\nb", new string('k', 1025) })
        {
            var source = new Source<string>("it");
            Assert.Equal("it", await node.Cache.GetOrCreateAsync(key, source.LoadAsync));
            Assert.Equal("it", await node.Cache.GetOrCreateAsync(key, source.LoadAsync));
            Assert.Equal(2, source.Loads);
        }

        var longest = new Source<string>("it");
        await node.Cache.GetOrCreateAsync(new string('k', 1024), longest.LoadAsync);
        await node.Cache.GetOrCreateAsync(new string('k', 1024), longest.LoadAsync);
        Assert.Equal(1, longest.Loads);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Callers_of_one_key_share_a_load(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var source = new Source<string>("it");
        source.Hold();

        var callers = Enumerable.Range(0, 100).Select(_ => node.Cache.GetOrCreateAsync("key", source.LoadAsync).AsTask()).ToList();
        await source.HasRead;
        source.Release();

        Assert.All(await Task.WhenAll(callers), value => Assert.Equal("it", value));
        Assert.Equal(1, source.Loads);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_factory_that_throws_fails_all_waiters_once(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var (loads, begun, gate) = (0, new TaskCompletionSource(), new TaskCompletionSource());
        async ValueTask<string> Fail(CancellationToken cancel)
        {
            Interlocked.Increment(ref loads);
            begun.TrySetResult();
            await gate.Task;
            throw new FormatException("The source is broken.");
        }

        var callers = Enumerable.Range(0, 20).Select(_ => node.Cache.GetOrCreateAsync("key", Fail).AsTask()).ToList();
        await begun.Task;
        gate.SetResult();

        var failures = new HashSet<Exception>();
        foreach (var caller in callers)
        {
            failures.Add(await Assert.ThrowsAsync<FormatException>(() => caller));
        }

        // A caller that comes after the load has failed loads itself.
        Assert.Equal(loads, failures.Count);
        Assert.InRange(loads, 1, 10);
        Assert.Equal("it", await node.Cache.GetOrCreateAsync("key", new Source<string>("it").LoadAsync));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_caller_that_cancels_leaves_the_load_to_the_others(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var source = new Source<string>("it");
        source.Hold();
        using var cancel = new CancellationTokenSource();

        var leaves = node.Cache.GetOrCreateAsync("key", source.LoadAsync, cancellationToken: cancel.Token).AsTask();
        await source.HasRead;
        var stays = node.Cache.GetOrCreateAsync("key", source.LoadAsync).AsTask();
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => leaves);
        source.Release();

        Assert.Equal("it", await stays);
        Assert.Equal(1, source.Loads);
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task A_call_that_is_cancelled_before_loads_nothing(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var cancelled = new CancellationToken(canceled: true);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(
            () => node.Cache.GetOrCreateAsync("key", Never<string>, cancellationToken: cancelled).AsTask());
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Mutable_values_are_never_shared(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var loaded = await node.Cache.GetOrCreateAsync("basket", new Source<Basket>(new() { Items = ["a"] }).LoadAsync);
        loaded.Items.Add("the caller's own");
        var hit = await node.Cache.GetOrCreateAsync("basket", Never<Basket>);
        hit.Items.Add("the caller's own");
        Assert.Equal(["a"], (await node.Cache.GetOrCreateAsync("basket", Never<Basket>)).Items);

        var bytes = new byte[] { 1, 2 };
        await node.Cache.SetAsync("bytes", bytes);
        bytes[0] = 9;
        (await node.Cache.GetOrCreateAsync("bytes", Never<byte[]>))[1] = 9;
        Assert.Equal([1, 2], await node.Cache.GetOrCreateAsync("bytes", Never<byte[]>));
    }

    [Theory, MemberData(nameof(Everywhere))]
    public async Task Immutable_values_are_shared(Implementation implementation, bool withRedis)
    {
        await using var node = await StartAsync(implementation, withRedis);
        var price = new Price(1, "EUR");
        Assert.Same(price, await node.Cache.GetOrCreateAsync("price", new Source<Price>(price).LoadAsync));
        Assert.Same(price, await node.Cache.GetOrCreateAsync("price", Never<Price>));
    }

    [Theory]
    [InlineData(Implementation.Microsoft)]
    [InlineData(Implementation.Ours)]
    public async Task Another_process_finds_the_value_in_Redis(Implementation implementation)
    {
        await using var node = await StartAsync(implementation, withRedis: true);
        await using var other = await node.StartOtherAsync();
        await node.Cache.GetOrCreateAsync("loaded", new Source<Price>(new(1, "EUR")).LoadAsync, tags: ["a"]);
        await node.StoredAsync("loaded");
        await node.Cache.SetAsync("set", new Price(2, "EUR"), tags: ["a"]);

        Assert.Equal(new(1, "EUR"), await other.Cache.GetOrCreateAsync("loaded", Never<Price>));
        Assert.Equal(new(2, "EUR"), await other.Cache.GetOrCreateAsync("set", Never<Price>));
        Assert.Equal(new(2, "EUR"), await other.InMemoryAsync<Price>("set"));
    }

    /// <summary>Writes a value in one process and reads it in another, or in the same one without a Redis.</summary>
    private static async Task RoundTripAsync<T>(HybridNode node, T value, Action<T, T> assertEqual)
    {
        var key = Guid.NewGuid().ToString();
        await node.Cache.GetOrCreateAsync(key, _ => ValueTask.FromResult(value));
        await node.StoredAsync(key);
        assertEqual(value, await node.Cache.GetOrCreateAsync(key, Never<T>));
        if (node.Redis is not null)
        {
            assertEqual(value, await node.Cache.GetOrCreateAsync(key, Never<T>, With(HybridCacheEntryFlags.DisableLocalCache)));
        }
    }

    private static async Task SetAsync(HybridNode node, params string[] keys)
    {
        foreach (var key in keys)
        {
            await node.Cache.SetAsync(key, key);
        }
    }

    private static async Task<IEnumerable<string?>> CachedAsync(HybridNode node, params string[] keys)
    {
        var values = new List<string?>();
        foreach (var key in keys)
        {
            values.Add(await node.Cache.GetOrCreateAsync(key, Never<string?>, With(HybridCacheEntryFlags.DisableUnderlyingData)));
        }

        return values;
    }

    private static HybridCacheEntryOptions With(HybridCacheEntryFlags flags) => new() { Flags = flags };

    private static ValueTask<T> Never<T>(CancellationToken cancel) => throw new InvalidOperationException("Nothing is to be loaded.");

    private Task<HybridNode> StartAsync(
        Implementation implementation,
        bool withRedis,
        Action<HybridCacheSettings>? settings = null,
        Action<IServiceCollection>? services = null) =>
        HybridNode.StartAsync(implementation, withRedis ? servers.Redis : null, services, settings);
}
