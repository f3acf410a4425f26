using System.Text.Json;
using System.Text.Json.Serialization;
using CachingApi.Caching;
using CachingApi.Tests.Api;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Tests.Caching;

/// <summary>Something to cache, from a source that a test plays.</summary>
internal sealed record Thing(string Name, long Version);

/// <summary>What an earlier build cached of it.</summary>
internal sealed record RenamedThing(string Title, long Version);

[JsonSerializable(typeof(Thing))]
[JsonSerializable(typeof(RenamedThing))]
internal sealed partial class ThingJson : JsonSerializerContext;

/// <summary>The engine of a node, with a cache of things in it.</summary>
internal sealed class Engine(ApiNode node, CacheSettings? settings = null, bool versioned = true)
{
    public Cache<Thing> Cache { get; } =
        new("things", settings ?? new CacheSettings { MemoryTtl = TimeSpan.Zero }, ThingJson.Default.Thing, thing => versioned ? thing.Version : 0);

    public CacheAside CacheAside { get; } = node.Services.GetRequiredService<CacheAside>();

    public Invalidation Invalidation { get; } = node.Services.GetRequiredService<Invalidation>();

    public WriteThrough WriteThrough { get; } = node.Services.GetRequiredService<WriteThrough>();

    public SingleFlight<CacheResult> Flights { get; } = node.Services.GetRequiredService<SingleFlight<CacheResult>>();

    public CacheKey<Thing> Key(string id = "1") => Cache.Key(id);

    public Task<CacheResult> GetAsync(Func<CancellationToken, Task<Thing?>> load, string id = "1") =>
        CacheAside.GetAsync(Key(id), load, CancellationToken.None).AsTask();

    public Task<CacheResult> GetAsync(Thing? thing, string id = "1") => GetAsync(_ => Task.FromResult(thing), id);

    /// <summary>Write-through of a write that has just been committed.</summary>
    public Task PutAsync(CacheKey<Thing> key, Thing thing, CancellationToken cancel) => WriteThrough.PutAsync(key, thing, Moment.Now, cancel);

    public static Thing? Read(CacheResult result) =>
        result.Found ? JsonSerializer.Deserialize(result.Entry.Body.Span, ThingJson.Default.Thing) : null;
}

/// <summary>A load that waits, after it has read its source, until the test lets it go on.</summary>
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
