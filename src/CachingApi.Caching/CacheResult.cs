namespace CachingApi.Caching;

/// <summary>Where an answer came from, and why.</summary>
public enum CacheOutcome
{
    /// <summary>From the memory of this process, fresh.</summary>
    MemoryHit,

    /// <summary>From Redis, fresh.</summary>
    RedisHit,

    /// <summary>From the source, because nothing was cached.</summary>
    Miss,

    /// <summary>From the source, because the cached entry was stale.</summary>
    Refreshed,

    /// <summary>From Redis, stale, because the source is slow; the load goes on.</summary>
    StaleWhileRevalidate,

    /// <summary>From Redis, stale, because the source failed.</summary>
    StaleIfError,

    /// <summary>From the source, because Redis is away.</summary>
    Bypass,

    /// <summary>Nothing usable is cached, and the read does not load.</summary>
    NotCached,
}

/// <summary>An answer of a cache: the entry, and where it came from.</summary>
/// <param name="Stored">Whether this read loaded the value and the cache keeps it.</param>
/// <param name="Collapsed">Whether the read shared the load of another caller.</param>
public readonly record struct CacheResult(CacheEntry Entry, CacheOutcome Outcome, bool Stored = false, bool Collapsed = false)
{
    /// <summary>Whether the entity exists.</summary>
    public bool Found => Entry.Kind is EntryKind.Value;
}

/// <summary>An answer of a <see cref="Cache{T}"/>.</summary>
public readonly struct CacheResult<T> where T : class
{
    private readonly Cache<T> _cache;

    internal CacheResult(Cache<T> cache, CacheResult result) => (_cache, Untyped) = (cache, result);

    /// <summary>The answer without the type of its value.</summary>
    public CacheResult Untyped { get; }

    /// <summary>The entry as it is cached: the value as UTF-8 JSON, with its lifetimes.</summary>
    public CacheEntry Entry => Untyped.Entry;

    /// <summary>Where the answer came from, and why.</summary>
    public CacheOutcome Outcome => Untyped.Outcome;

    /// <summary>Whether the entity exists.</summary>
    public bool Found => Untyped.Found;

    /// <summary>
    /// The value; <c>null</c> if the entity does not exist. It is deserialised on each call, so that no caller shares it, unless the cache
    /// is declared by <see cref="CacheBuilder{T}.Immutable"/>.
    /// </summary>
    public T? Value => Found ? _cache.ValueOf(Entry) : null;
}
