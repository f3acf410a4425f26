using System.ComponentModel.DataAnnotations;
using CachingApi.Redis;
using Microsoft.Extensions.Caching.Hybrid;

namespace CachingApi.Caching.Hybrid;

/// <summary>The settings of the <see cref="HybridCache"/> on the engine's tiers.</summary>
public sealed class HybridCacheSettings
{
    /// <summary>The name of the cache in keys, metrics and administration: lower-case letters, digits and hyphens.</summary>
    [Required, StringLength(48)]
    [RegularExpression("^[a-z0-9-]+$", ErrorMessage = "The name holds lower-case letters, digits and hyphens only.")]
    public string Name { get; set; } = "hybrid";

    /// <summary>
    /// The options of entries that are read or written without options of their own. Without an expiration: five minutes.
    /// </summary>
    public HybridCacheEntryOptions? DefaultEntryOptions { get; set; }

    /// <summary>How large a serialized value may be, in bytes. A larger one is returned to the callers and not cached.</summary>
    [Range(1, int.MaxValue)]
    public long MaximumPayloadBytes { get; set; } = 1024 * 1024;

    /// <summary>How long a key may be, in characters. A value with a longer key is returned to the caller and not cached.</summary>
    [Range(1, 65_536)]
    public int MaximumKeyLength { get; set; } = 1024;

    /// <summary>How long an entry is kept at most, whatever its options say; at most 365 days.</summary>
    [TimeSpanRange("00:00:00.001", "365.00:00:00")]
    public TimeSpan MaximumExpiration { get; set; } = TimeSpan.FromDays(365);

    /// <summary>
    /// The part of an expiration, 0 to 0.5, that is left off at random, so that entries that were cached together do not expire together.
    /// </summary>
    [Range(0.0, 0.5)]
    public double Jitter { get; set; } = 0.1;

    /// <summary>How many entries are kept in the memory of a process at most, 3 to 10,000,000.</summary>
    [Range(3, 10_000_000)]
    public int MemoryEntries { get; set; } = 10_000;

    /// <summary>
    /// How many tags a process knows at a time at most, 2 to 10,000,000. Beyond that, it forgets some, and reads the entries that carry
    /// them from Redis again.
    /// </summary>
    [Range(2, 10_000_000)]
    public int MemoryTags { get; set; } = 10_000;

    /// <summary>
    /// How many loads run at a time in a process at most, half as many while Redis is away. Loads inside of loads do not count.
    /// </summary>
    [Range(2, 1_000_000)]
    public int MaximumLoads { get; set; } = 1_000;
}
