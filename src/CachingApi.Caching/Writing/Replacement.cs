using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Replacement: a value without a version replaces the cached one in all processes. Of two writers, the one that reaches Redis later
/// wins. While Redis is away, an invalidation is queued instead.
/// </summary>
/// <remarks>
/// The race that a plain <c>SET</c> loses:
/// 1. a reader misses and loads the old value;
/// 2. a writer sets the new value;
/// 3. the reader stores the old value.
/// The script of step 2 removes the reader's lease, so step 3 is refused and the reader loads again.
/// </remarks>
internal sealed class Replacement(
    Tiers tiers, Invalidation invalidation, SingleFlight<CacheResult> flights, EntrySizeLimit sizeLimit, TimeProvider time)
{
    /// <summary>
    /// How often the write is repeated because the cache was cleared meanwhile; after that, an invalidation is queued.
    /// </summary>
    private const int MaxGenerations = 5;

    /// <summary>Caches a value. The tiers that <paramref name="options"/> skip are not changed.</summary>
    public async Task SetAsync<T>(CacheKey<T> key, T value, ReadOptions options, CancellationToken cancel) where T : class
    {
        var (cache, id) = (key.Cache, key.Id);
        Forget(cache, id);

        // A value is put only into a generation that is known when the write begins (see Invalidation).
        var epoch = tiers.Redis.IsConfigured ? await tiers.Namespaces.CurrentAsync(cache.Name, cancel) : null;
        if (!tiers.Redis.IsConfigured || (options.Skips & ReadSkips.RedisWrite) != 0)
        {
            var begun = tiers.Memory.Begin(cache, id, epoch: null);
            tiers.Memory.Replace(cache, id, EntryOf(key, begun.Epoch, value), begun, time.GetUtcNow(), options);
        }
        else if (epoch is null || !await SetAsync(key, value, options, epoch, Moment.Now, cancel))
        {
            invalidation.Enqueue(cache, id, default);
        }

        // A load that other readers could join may have begun before the write.
        Forget(cache, id);
    }

    private async Task<bool> SetAsync<T>(
        CacheKey<T> key, T value, ReadOptions options, Epoch epoch, Moment began, CancellationToken cancel)
        where T : class
    {
        var (cache, id) = (key.Cache, key.Id);
        for (var attempt = 0; attempt < MaxGenerations; attempt++)
        {
            var read = tiers.Memory.Begin(cache, id, epoch);
            var entryKey = tiers.Namespaces.Key(cache, epoch, id);
            var entry = attempt == 0 ? EntryOf(key, epoch, value) : CacheEntry.Tombstone(entryKey, default, time.GetUtcNow());
            var keep = entry.Kind is EntryKind.Value ? entry.UsableUntil - time.GetUtcNow() : Invalidation.TombstoneTtl;
            var write = await tiers.Redis.WriteAsync(cache.Name, id, entryKey, entry, keep, began, cancel);
            if (write.State is WriteState.Unavailable)
            {
                return false;
            }

            if (write.State is WriteState.Stored)
            {
                tiers.Seen.Remove(cache.Name, id);
                tiers.Memory.Replace(cache, id, entry, read, time.GetUtcNow(), options);
            }
            else
            {
                cache.InvalidateMemory(id, default);
            }

            if (await tiers.Namespaces.IsCurrentAsync(cache.Name, epoch, write.Generation, cancel))
            {
                return true;
            }

            if (await tiers.Namespaces.CurrentAsync(cache.Name, cancel) is not { } next)
            {
                return false;
            }

            epoch = next;
        }

        return false;
    }

    private CacheEntry EntryOf<T>(CacheKey<T> key, Epoch epoch, T value) where T : class
    {
        var entryKey = tiers.Namespaces.Key(key.Cache, epoch, key.Id);
        return sizeLimit.Apply(key.Cache, entryKey, CacheEntry.Of(entryKey, key.Cache, value, TimeSpan.Zero, time.GetUtcNow()));
    }

    private void Forget(Cache cache, string id) => flights.Forget($"{cache.Name}:{id}");
}
