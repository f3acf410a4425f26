






namespace CachingApi.Caching.Operations;

/// <summary>The state of an entity in one tier.</summary>
public enum TierState
{
    /// <summary>The tier has no entry, or none that can be read.</summary>
    Absent,

    /// <summary>The tier serves the value.</summary>
    Fresh,

    /// <summary>The tier serves the value if the source is slow or fails.</summary>
    Stale,

    /// <summary>The tier serves a negative entry: the source does not have the entity.</summary>
    Negative,

    /// <summary>The entry refuses older revisions; nothing is served.</summary>
    Tombstone,

    /// <summary>Redis is away.</summary>
    Unavailable,
}

/// <summary>One tier's entry of an entity.</summary>
/// <param name="FreshUntil">The time until which the tier serves it as fresh.</param>
/// <param name="UsableUntil">The time until which the tier may serve it, fresh or stale.</param>
/// <param name="Size">Header and body, in bytes.</param>
public sealed record TierInspection(TierState State, CacheEntry? Entry, DateTimeOffset FreshUntil, DateTimeOffset UsableUntil, long Size);

/// <summary>The entries of an entity in both tiers.</summary>
/// <param name="Key">The key in Redis; <c>null</c> if Redis is away, because the key contains the generation.</param>
/// <param name="ExpiresIn">The time until Redis removes the entry.</param>
/// <param name="LeaseHeld">Whether a process is loading the entity.</param>
public sealed record CacheInspection(string? Key, TierInspection Memory, TierInspection Redis, TimeSpan? ExpiresIn, bool LeaseHeld);
