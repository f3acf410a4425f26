namespace CachingApi.Caching;

/// <summary>A feature's declaration of its cache: see <see cref="CacheBuilder{T}"/>.</summary>
internal abstract class CacheDefinition(string name)
{
    public string Name => name;

    /// <summary>The caches that every write to this one clears.</summary>
    public IReadOnlyList<string> Dependents { get; set; } = [];

    public bool RequiresBackplane { get; set; } = true;

    public WarmingPlan? Warming { get; set; }

    /// <summary>The maximum number of loads that run at a time in one process; half of it while Redis is away.</summary>
    public int MaxLoads { get; set; } = 64;

    /// <summary>Whether the cache has a size limit of its own instead of <see cref="CachingOptions.MaxEntryBytes"/>.</summary>
    public bool LimitsItsEntries { get; set; }
}

/// <inheritdoc/>
internal sealed class CacheDefinition<T>(string name) : CacheDefinition(name) where T : class
{
    public bool IsImmutable { get; set; }

    public Func<T, long>? Version { get; set; }

    public Func<T, long>? Fence { get; set; }

    public Func<T, DateTimeOffset, DateTimeOffset>? FreshUntil { get; set; }

    public Func<string, CancellationToken, Task<T?>>? Load { get; set; }

    public Func<Cache<T>, WriteBehindTarget<T>>? Target { get; set; }
}

/// <summary>The parts of the engine that every cache uses.</summary>
internal sealed record CacheEngine(
    CacheAside CacheAside,
    WriteThrough WriteThrough,
    Invalidation Invalidation,
    Inspection Inspection,
    MemoryTier Memory);
