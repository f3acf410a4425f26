using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Redis;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Caching.Tests;

/// <summary>A cached entity, from a source that a test controls.</summary>
internal sealed record Thing(string Name, long Version);

/// <summary>The same entity as an earlier build cached it.</summary>
internal sealed record RenamedThing(string Title, long Version);

[JsonSerializable(typeof(Thing))]
[JsonSerializable(typeof(RenamedThing))]
internal sealed partial class ThingJson : JsonSerializerContext;

/// <summary>Caches of a test's choice on the engine of a node.</summary>
internal static class TestCache
{
    /// <summary>A lease of another process, as Redis has it: see <c>read_or_lease.lua</c>.</summary>
    public static string HeldLease =>
        string.Create(CultureInfo.InvariantCulture, $"{TimeProvider.System.GetUtcNow().AddMinutes(1).ToUnixTimeMilliseconds()} - other");

    public static Cache<T> Of<T>(
        IServiceProvider services,
        string name,
        CacheOptions options,
        JsonTypeInfo<T> json,
        Func<T, long>? version = null,
        Func<string, CancellationToken, Task<T?>>? load = null,
        bool requiresBackplane = true,
        Func<T, long>? fence = null)
        where T : class =>
        new(
            new(name) { Version = version, Fence = fence, Load = load, RequiresBackplane = requiresBackplane },
            options,
            new JsonFormat<T>(json),
            services.GetRequiredService<CacheEngine>());
}

/// <summary>The engine of a node, with a cache of things in it.</summary>
internal sealed class Engine
{
    private readonly Namespaces _namespaces;

    public Engine(IServiceProvider services, CacheOptions? options = null, bool versioned = true)
    {
        (CacheAside, Invalidation) = (services.GetRequiredService<CacheAside>(), services.GetRequiredService<Invalidation>());
        (WriteThrough, Flights) = (services.GetRequiredService<WriteThrough>(), services.GetRequiredService<SingleFlight<CacheResult>>());
        _namespaces = services.GetRequiredService<Namespaces>();
        Cache = TestCache.Of(
            services,
            "things",
            options ?? new CacheOptions { MemoryTtl = TimeSpan.Zero },
            ThingJson.Default.Thing,
            versioned ? thing => thing.Version : null,
            (id, cancel) => Source(id, cancel));
    }

    public Cache<Thing> Cache { get; }

    /// <summary>The source of the cache's own loader.</summary>
    public Func<string, CancellationToken, Task<Thing?>> Source { get; set; } = (_, _) => Task.FromResult<Thing?>(null);

    public CacheAside CacheAside { get; }

    public Invalidation Invalidation { get; }

    public WriteThrough WriteThrough { get; }

    public SingleFlight<CacheResult> Flights { get; }

    public CacheKey<Thing> Key(string id = "1") => Cache.Key(id);

    public Task<CacheResult> GetAsync(Func<CancellationToken, Task<Thing?>> load, string id = "1") =>
        CacheAside.GetAsync(Key(id), load, admit: null, CancellationToken.None).AsTask();

    public Task<CacheResult> GetAsync(Thing? thing, string id = "1") => GetAsync(_ => Task.FromResult(thing), id);

    /// <summary>Write-through of a write that has just been committed.</summary>
    public async Task PutAsync(CacheKey<Thing> key, Thing thing, CancellationToken cancel)
    {
        await KnowGenerationAsync();
        await WriteThrough.PutAsync(key, thing, Moment.Now, cancel);
    }

    /// <summary>A value is put only into a generation that is known when its write begins.</summary>
    public async Task KnowGenerationAsync() =>
        await _namespaces.CurrentAsync(Cache.Name, CancellationToken.None);

    public static Thing? Read(CacheResult result) =>
        result.Found ? JsonSerializer.Deserialize(result.Entry.Body.Span, ThingJson.Default.Thing) : null;
}

/// <summary>A load that waits, before it reads its source, until the test releases it.</summary>
internal sealed class LateLoad(Func<Thing?> source)
{
    private readonly TaskCompletionSource _begun = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _gate = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public Task HasBegun => _begun.Task;

    public async Task<Thing?> RunAsync(CancellationToken stop)
    {
        _begun.TrySetResult();
        await _gate.Task.WaitAsync(stop);
        return source();
    }

    public void GoOn() => _gate.TrySetResult();
}

/// <summary>A load that, after it has read its source, waits until the test releases it.</summary>
internal sealed class SlowLoad(Func<Thing?> source)
{
    private readonly TaskCompletionSource _read = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _gate = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _runs;

    public int Runs => _runs;

    /// <summary>Ends when the first run has read the source.</summary>
    public Task HasRead => _read.Task;

    public async Task<Thing?> RunAsync(CancellationToken stop)
    {
        Interlocked.Increment(ref _runs);
        var thing = source();
        _read.TrySetResult();
        await _gate.Task.WaitAsync(stop);
        return thing;
    }

    public void GoOn() => _gate.TrySetResult();
}
