using System.ComponentModel.DataAnnotations;
using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>Options of all caches.</summary>
public sealed class CachingOptions
{
    /// <summary>Connection string of the Redis that holds the cache, in the form of StackExchange.Redis.</summary>
    public string? Redis { get; set; }

    /// <summary>
    /// Connection string of the Redis for state that must not be lost, such as queued writes. If it is not set, <see cref="Redis"/> is
    /// used.
    /// </summary>
    public string? RedisState { get; set; }

    /// <summary>The prefix of every key, so that several services can share one Redis.</summary>
    public string? KeyPrefix { get; set; }

    /// <summary>How long one request waits for Redis before it goes on without it.</summary>
    [TimeSpanRange("00:00:00.001", "00:00:10")]
    public TimeSpan RedisDeadline { get; set; } = TimeSpan.FromMilliseconds(50);

    /// <summary>How long a caller waits for a load while there is a stale entry to serve instead.</summary>
    [TimeSpanRange("00:00:00.001", "00:00:20")]
    public TimeSpan SoftTimeout { get; set; } = TimeSpan.FromMilliseconds(100);

    /// <summary>How long one load from the source may take. A slower load fails, and its value is not cached.</summary>
    [TimeSpanRange("00:00:00.100", "00:00:20")]
    public TimeSpan LoadTimeout { get; set; } = TimeSpan.FromSeconds(10);

    /// <summary>The maximum size of an entry in bytes, header and body. A larger one is served but not cached.</summary>
    [Range(1024, 64 * 1024 * 1024)]
    public int MaxEntryBytes { get; set; } = 1024 * 1024;

    /// <summary>How many keys per second this process compares with their source, over all its caches; 0 turns it off.</summary>
    [Range(0.0, 1000.0)]
    public double Verify { get; set; } = 1;
}

/// <summary>The lifetimes of one cache.</summary>
public class CacheOptions
{
    /// <summary>How long an entry is fresh.</summary>
    [TimeSpanRange("00:00:00.001", "365.00:00:00")]
    public TimeSpan Ttl { get; set; } = TimeSpan.FromMinutes(10);

    /// <summary>How long a stale entry is kept after <see cref="Ttl"/>, to be served if the source is slow or fails.</summary>
    [TimeSpanRange("00:00:00", "365.00:00:00")]
    public TimeSpan StaleFor { get; set; } = TimeSpan.Zero;

    /// <summary>How long a negative entry ("not found") is kept.</summary>
    [TimeSpanRange("00:00:00.001", "1.00:00:00")]
    public TimeSpan NegativeTtl { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>The maximum time for which a process keeps an entry in memory; zero turns the memory tier off.</summary>
    [TimeSpanRange("00:00:00", "365.00:00:00")]
    public TimeSpan MemoryTtl { get; set; } = TimeSpan.FromMinutes(1);

    /// <summary>The maximum number of entries that a process keeps in memory.</summary>
    [Range(3, 10_000_000)]
    public int MemoryEntries { get; set; } = 10_000;

    /// <summary>
    /// Whether an entry that is about to expire is loaded again in the background. The probability grows with the load's cost (XFetch).
    /// </summary>
    public bool EarlyRefresh { get; set; } = true;

    /// <summary>Whether the memory tier is used.</summary>
    internal bool InMemory => MemoryTtl > TimeSpan.Zero;

    /// <summary>
    /// The largest part of a lifetime, 0 to 0.5, that is cut off at random, so that entries cached together do not expire together.
    /// </summary>
    [Range(0.0, 0.5)]
    public double Jitter { get; set; } = 0.1;
}
