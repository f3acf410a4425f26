namespace CachingApi.Caching;

/// <summary>What a read leaves out.</summary>
[Flags]
internal enum ReadSkips
{
    None = 0,
    MemoryRead = 1,
    MemoryWrite = 2,
    RedisRead = 4,
    RedisWrite = 8,

    /// <summary>Nothing is loaded.</summary>
    Load = 16,
}

/// <param name="MemoryTtl">How long memory keeps the entry at most; <c>null</c> for <see cref="CacheOptions.MemoryTtl"/>.</param>
internal readonly record struct ReadOptions(ReadSkips Skips, TimeSpan? MemoryTtl);

/// <summary>Decides whether a reader may be served an entry that has not expired, by what else it depends on, such as its tags.</summary>
internal abstract class EntryCheck
{
    /// <summary>Fetches what <see cref="Accepts"/> needs to know; <c>null</c> for what a load needs to know.</summary>
    public abstract ValueTask LearnAsync(CacheEntry? entry, CancellationToken cancel);

    /// <summary>Whether the entry is still valid, as far as is known; without that knowledge it is not.</summary>
    public abstract bool Accepts(CacheEntry entry);
}

/// <summary>What a caller of <see cref="CacheAside"/> asks for.</summary>
/// <param name="Load"><c>null</c> for the loader of the cache.</param>
/// <param name="Admit">See <see cref="Cache{T}"/>.</param>
internal readonly record struct ReadCall<T>(Func<CancellationToken, Task<T?>>? Load, Func<bool, Task<bool>>? Admit, ReadOptions Options)
    where T : class
{
    /// <summary>What every entry must pass that the caller is served; <c>null</c> if there is nothing.</summary>
    public EntryCheck? Check { get; init; }

    /// <summary>Callers that leave out the same of Redis, or of memory's writes, can share a load.</summary>
    public ReadSkips Shared => Options.Skips & (ReadSkips.MemoryWrite | ReadSkips.RedisRead | ReadSkips.RedisWrite);

    public bool Skips(ReadSkips what) => (Options.Skips & what) != 0;

    public bool SkipsRedis => Skips(ReadSkips.RedisRead) && Skips(ReadSkips.RedisWrite);

    public bool Accepts(CacheEntry entry) => Check is null || entry.Kind is EntryKind.Tombstone || Check.Accepts(entry);
}
