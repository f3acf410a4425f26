namespace CachingApi.Caching;

/// <summary>How an answer came about.</summary>
internal enum CacheOutcome
{
    /// <summary>From this process's memory, fresh.</summary>
    MemoryHit,

    /// <summary>From Redis, fresh.</summary>
    RedisHit,

    /// <summary>From the source, as nothing was cached.</summary>
    Miss,

    /// <summary>From the source, as what was cached was stale.</summary>
    Refreshed,

    /// <summary>From Redis, stale, as the source is slow; the load goes on.</summary>
    StaleWhileRevalidate,

    /// <summary>From Redis, stale, as the source failed.</summary>
    StaleIfError,

    /// <summary>From the source, as Redis is away.</summary>
    Bypass,
}

/// <summary>An answer of a cache: the entry, and how it came about.</summary>
/// <param name="Stored">Whether it was loaded just now, and is cached now.</param>
/// <param name="Collapsed">Whether the load was another caller's.</param>
internal readonly record struct CacheResult(CacheEntry Entry, CacheOutcome Outcome, bool Stored = false, bool Collapsed = false)
{
    /// <summary>Whether there is such a thing.</summary>
    public bool Found => Entry.Kind is EntryKind.Value;
}
