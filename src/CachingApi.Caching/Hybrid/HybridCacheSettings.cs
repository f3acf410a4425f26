using System.ComponentModel.DataAnnotations;
using CachingApi.Redis;
using Microsoft.Extensions.Caching.Hybrid;

namespace CachingApi.Caching.Hybrid;

/// <summary>The settings of the <see cref="HybridCache"/> on the engine's tiers.</summary>
public sealed class HybridCacheSettings
{
    /// <summary>The name of the cache in keys, metrics and administration: lower-case letters, digits and hyphens.</summary>
    [Required, StringLength(48)]
    [RegularExpression("^[a-z0-9-]+$", ErrorMessage = "The name may contain only lower-case letters, digits and hyphens.")]
    public string Name { get; set; } = "hybrid";

    /// <summary>
    /// The options of entries that are read or written without options. If they have no expiration, it is five minutes.
    /// </summary>
    public HybridCacheEntryOptions? DefaultEntryOptions { get; set; }

    /// <summary>The maximum size of a serialized value in bytes. A larger one is returned to the callers but not cached.</summary>
    [Range(1, int.MaxValue)]
    public long MaximumPayloadBytes { get; set; } = 1024 * 1024;

    /// <summary>The maximum length of a key in characters. A value with a longer key is returned to the caller but not cached.</summary>
    [Range(1, 65_536)]
    public int MaximumKeyLength { get; set; } = 1024;

    /// <summary>The upper bound for the expiration that an entry's options can set; at most 365 days.</summary>
    [TimeSpanRange("00:00:00.001", "365.00:00:00")]
    public TimeSpan MaximumExpiration { get; set; } = TimeSpan.FromDays(365);

    /// <summary>
    /// The largest part of an expiration, 0 to 0.5, that is cut off at random, so that entries cached together do not expire together.
    /// </summary>
    [Range(0.0, 0.5)]
    public double Jitter { get; set; } = 0.1;

    /// <summary>The maximum number of entries that a process keeps in memory, 3 to 10,000,000.</summary>
    [Range(3, 10_000_000)]
    public int MemoryEntries { get; set; } = 10_000;

    /// <summary>
    /// The maximum number of tags that a process tracks, 2 to 10,000,000. Beyond that, it stops tracking some of them, and reads the
    /// entries that carry those tags from Redis again.
    /// </summary>
    [Range(2, 10_000_000)]
    public int MemoryTags { get; set; } = 10_000;

    /// <summary>
    /// The maximum number of loads that run at a time in a process; half of it while Redis is away. Loads inside of loads do not count.
    /// </summary>
    [Range(2, 1_000_000)]
    public int MaximumLoads { get; set; } = 1_000;
}
