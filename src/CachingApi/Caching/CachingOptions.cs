using System.ComponentModel.DataAnnotations;

namespace CachingApi.Caching;

/// <summary>What holds for all caches: the section <c>Cache</c>.</summary>
internal sealed class CachingOptions
{
    /// <summary>How long one request waits for Redis before it goes on without it.</summary>
    [Range(typeof(TimeSpan), "00:00:00.001", "00:00:10")]
    public TimeSpan RedisDeadline { get; init; } = TimeSpan.FromMilliseconds(50);

    /// <summary>How long a caller waits for a load while there is a stale entry to serve instead.</summary>
    [Range(typeof(TimeSpan), "00:00:00.001", "00:00:20")]
    public TimeSpan SoftTimeout { get; init; } = TimeSpan.FromMilliseconds(100);

    /// <summary>How long one load from the source may take. A slower one fails, and is never kept.</summary>
    [Range(typeof(TimeSpan), "00:00:00.100", "00:00:20")]
    public TimeSpan LoadTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How large an entry may be, in bytes, header and body. A larger one is served and not cached.</summary>
    [Range(1024, 64 * 1024 * 1024)]
    public int MaxEntryBytes { get; init; } = 1024 * 1024;

    /// <summary>How many keys per second are compared with their source, in all caches of this process together; 0 compares none.</summary>
    [Range(0.0, 1000.0)]
    public double Verify { get; init; } = 1;
}

/// <summary>The lifetimes of one cache: the section <c>Cache:&lt;name&gt;</c>.</summary>
internal class CacheSettings
{
    /// <summary>How long an entry is fresh.</summary>
    [Range(typeof(TimeSpan), "00:00:00.001", "365.00:00:00")]
    public TimeSpan Ttl { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>How long, after that, a stale entry is kept for the case that the source fails.</summary>
    [Range(typeof(TimeSpan), "00:00:00", "365.00:00:00")]
    public TimeSpan StaleFor { get; init; } = TimeSpan.Zero;

    /// <summary>How long "there is no such thing" is kept.</summary>
    [Range(typeof(TimeSpan), "00:00:00.001", "1.00:00:00")]
    public TimeSpan NegativeTtl { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>How long an entry is kept in the memory of a process at most; zero keeps none there.</summary>
    [Range(typeof(TimeSpan), "00:00:00", "365.00:00:00")]
    public TimeSpan MemoryTtl { get; init; } = TimeSpan.FromMinutes(1);

    /// <summary>How many entries are kept in the memory of a process at most.</summary>
    [Range(3, 10_000_000)]
    public int MemoryEntries { get; init; } = 10_000;

    /// <summary>Whether an entry that is about to expire is loaded again in the background, by chance and by what that costs (XFetch).</summary>
    public bool EarlyRefresh { get; init; } = true;

    public bool InMemory => MemoryTtl > TimeSpan.Zero;

    /// <summary>The part of a lifetime, 0 to 0.5, that is left off at random, so that what was cached together does not expire together.</summary>
    [Range(0.0, 0.5)]
    public double Jitter { get; init; } = 0.1;
}
