using CachingApi.Caching.Operations;

namespace CachingApi.Caching;

/// <summary>Inspection: the entry of an entity in each tier, without its body and without changing anything.</summary>
internal sealed class Inspection(MemoryTier memory, RedisTier redis, Namespaces namespaces, TimeProvider time)
{
    public async Task<CacheInspection> LookAsync(Cache cache, string id, CancellationToken cancel)
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

    private static TierInspection Inspect(
        CacheEntry entry, DateTimeOffset freshUntil, DateTimeOffset usableUntil, long size, DateTimeOffset now)
    {
        var state = entry.Kind switch
        {
            EntryKind.Value => now < freshUntil ? TierState.Fresh : TierState.Stale,
            // The entry of a deletion is kept longer than it is served. After that, it only keeps out older revisions.
            EntryKind.Negative when now < freshUntil => TierState.Negative,
            _ => TierState.Tombstone,
        };
        return new(state, entry, freshUntil, usableUntil, size);
    }

    private static TierInspection Nothing(TierState state) => new(state, null, default, default, 0);
}
