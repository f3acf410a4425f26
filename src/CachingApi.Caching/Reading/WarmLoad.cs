namespace CachingApi.Caching;

/// <summary>The result of one load of a warm-up.</summary>
internal enum WarmOutcome
{
    /// <summary>A tier has the entry: this load filled it, or it was cached before.</summary>
    Kept,

    /// <summary>The load ended, and no tier has the value: it is too large, a write superseded it, or the key names no entity.</summary>
    NotKept,

    /// <summary>The value was loaded, and no tier has it, because Redis is not in use.</summary>
    Bypassed,

    /// <summary>The source failed, and a stale entry remains.</summary>
    Stale,
}

/// <summary>
/// One load of a warm-up, and the reads that it makes. They are not counted as look-ups, because no client made them: otherwise every
/// warm-up would lower the hit ratio.
/// </summary>
internal sealed class WarmLoad
{
    private static readonly AsyncLocal<WarmLoad?> Flow = new();

    /// <summary>How many run in this process: a memory hit looks at the flow only if there are any.</summary>
    private static int _running;

    private readonly Cache _cache;
    private WarmOutcome? _outcome;

    private WarmLoad(Cache cache) => _cache = cache;

    /// <summary>The load that the current flow belongs to; <c>null</c> for the read of a client.</summary>
    public static WarmLoad? Current => Volatile.Read(ref _running) == 0 ? null : Flow.Value;

    /// <summary>Loads the entity of a key through the cache.</summary>
    public static async Task<WarmOutcome> RunAsync(Cache cache, string key, CancellationToken cancel)
    {
        var load = new WarmLoad(cache);
        Interlocked.Increment(ref _running);
        try
        {
            Flow.Value = load;
            await cache.WarmAsync(key, cancel);
            return load._outcome ?? WarmOutcome.NotKept;
        }
        finally
        {
            Interlocked.Decrement(ref _running);
        }
    }

    /// <summary>Notes the result of a read. Of several reads of the cache, the one that went worst counts.</summary>
    /// <param name="inMemory">Whether the memory of this process has the entry.</param>
    public void Note(Cache cache, CacheResult result, bool inMemory)
    {
        if (cache != _cache)
        {
            return;
        }

        var outcome = result.Outcome is CacheOutcome.StaleIfError ? WarmOutcome.Stale
            : inMemory || result.Stored || result.Outcome is CacheOutcome.MemoryHit or CacheOutcome.RedisHit ? WarmOutcome.Kept
            : result.Outcome is CacheOutcome.Bypass ? WarmOutcome.Bypassed
            : WarmOutcome.NotKept;
        _outcome = _outcome is { } before && before > outcome ? before : outcome;
    }
}
