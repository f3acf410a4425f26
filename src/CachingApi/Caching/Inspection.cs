namespace CachingApi.Caching;

/// <summary>What one tier has in a thing's place.</summary>
internal enum TierState
{
    /// <summary>Nothing, or nothing that can be read.</summary>
    Absent,

    /// <summary>The thing; it is served.</summary>
    Fresh,

    /// <summary>The thing; it is served when the source is slow or fails.</summary>
    Stale,

    /// <summary>"There is no such thing"; it is served.</summary>
    Negative,

    /// <summary>What keeps out older versions; nothing is served.</summary>
    Tombstone,

    /// <summary>Redis is away.</summary>
    Unavailable,
}

/// <param name="FreshUntil">Until when the tier serves it as fresh.</param>
/// <param name="UsableUntil">Until when the tier serves it at all.</param>
/// <param name="Size">Header and body, in bytes.</param>
internal sealed record InspectedTier(TierState State, CacheEntry? Entry, DateTimeOffset FreshUntil, DateTimeOffset UsableUntil, long Size);

/// <param name="Key">Its key in Redis; <c>null</c> where Redis is away and does not say the generation.</param>
/// <param name="ExpiresIn">In what time Redis drops it.</param>
/// <param name="LeaseHeld">Whether somebody is loading it.</param>
internal sealed record InspectedEntry(string? Key, InspectedTier Memory, InspectedTier Redis, TimeSpan? ExpiresIn, bool LeaseHeld);

/// <summary>Inspection: what each tier holds of a thing, without its body and without changing anything.</summary>
internal sealed class Inspection(MemoryTier memory, RedisTier redis, Namespaces namespaces, TimeProvider time)
{
    public async Task<InspectedEntry> LookAsync(Cache cache, string id, CancellationToken cancel)
    {
        var epoch = await namespaces.CurrentAsync(cache.Name, cancel);
        var look = epoch is null ? default : await redis.LookAsync(namespaces.Key(cache, epoch, id), cancel);
        var now = time.GetUtcNow();
        return new(
            epoch is null ? null : namespaces.Key(cache, epoch, id).Text,
            memory.Peek(cache, id) is var (kept, until) ? Inspect(kept, until, until, kept.Bytes.Length, now) : Nothing(TierState.Absent),
            !look.Answered ? Nothing(TierState.Unavailable)
            : look.Entry is { } held ? Inspect(held, held.FreshUntil, held.UsableUntil, look.Size, now)
            : Nothing(TierState.Absent) with { Size = look.Size },
            look.ExpiresIn,
            look.LeaseHeld);
    }

    private static InspectedTier Inspect(CacheEntry entry, DateTimeOffset freshUntil, DateTimeOffset usableUntil, long size, DateTimeOffset now)
    {
        var state = entry.Kind switch
        {
            EntryKind.Value => now < freshUntil ? TierState.Fresh : TierState.Stale,
            // A deletion is kept longer than it is served: from then on it only keeps out what is older.
            EntryKind.Negative when now < freshUntil => TierState.Negative,
            _ => TierState.Tombstone,
        };
        return new(state, entry, freshUntil, usableUntil, size);
    }

    private static InspectedTier Nothing(TierState state) => new(state, null, default, default, 0);
}
