namespace CachingApi.Caching;

/// <summary>The steps that a read leaves out.</summary>
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

/// <param name="MemoryTtl">The maximum time that memory keeps the entry; <c>null</c> for <see cref="CacheOptions.MemoryTtl"/>.</param>
internal readonly record struct ReadOptions(ReadSkips Skips, TimeSpan? MemoryTtl);

/// <summary>Decides whether an unexpired entry may be served, by other things that it depends on, such as its tags.</summary>
internal abstract class EntryCheck
{
    /// <summary>Fetches the data that <see cref="Accepts"/> needs; if the entry is <c>null</c>, the data that a load needs.</summary>
    public abstract ValueTask LearnAsync(CacheEntry? entry, CancellationToken cancel);

    /// <summary>Whether the entry is still valid by the fetched data; <c>false</c> if data is missing.</summary>
    public abstract bool Accepts(CacheEntry entry);
}

/// <summary>The request of a caller of <see cref="CacheAside"/>.</summary>
/// <param name="Load"><c>null</c> for the loader of the cache.</param>
/// <param name="Admit">See <see cref="Cache{T}"/>.</param>
internal readonly record struct ReadCall<T>(Func<CancellationToken, Task<T?>>? Load, Func<bool, Task<bool>>? Admit, ReadOptions Options)
    where T : class
{
    /// <summary>The check of every entry that the caller is served; <c>null</c> for none.</summary>
    public EntryCheck? Check { get; init; }

    /// <summary>The skips that two callers must have in common to share a load: those of Redis and of writes to memory.</summary>
    public ReadSkips Shared => Options.Skips & (ReadSkips.MemoryWrite | ReadSkips.RedisRead | ReadSkips.RedisWrite);

    public bool Skips(ReadSkips what) => (Options.Skips & what) != 0;

    public bool SkipsRedis => Skips(ReadSkips.RedisRead) && Skips(ReadSkips.RedisWrite);

    public bool Accepts(CacheEntry entry) => Check is null || entry.Kind is EntryKind.Tombstone || Check.Accepts(entry);
}
