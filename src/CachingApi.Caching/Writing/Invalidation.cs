using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Invalidation, after the commit: a short-lived tombstone with the new revision takes the entry's place, so that a slow reader
/// cannot put back the replaced entry. While Redis is away, the invalidation is queued and replayed later.
/// </summary>
/// <remarks>
/// The race that a plain delete loses (Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1):
/// 1. a reader misses and loads version 1;
/// 2. a writer commits version 2 and deletes the entry;
/// 3. the reader stores version 1, which stays until its TTL ends.
/// With a tombstone of version 2 in place, step 3 is refused.
/// </remarks>
internal sealed class Invalidation(
    Tiers tiers,
    AutoRecoveryQueue queue,
    SingleFlight<CacheResult> flights,
    EntrySizeLimit sizeLimit,
    TimeProvider time)
{
    /// <summary>Longer than any load may take (see <see cref="CachingOptions.LoadTimeout"/>).</summary>
    public static TimeSpan TombstoneTtl { get; } = TimeSpan.FromSeconds(30);

    /// <summary>How often an entry is put again because the cache was cleared meanwhile; after that, the invalidation is queued.</summary>
    private const int MaxGenerations = 5;

    /// <summary>Invalidates every cached revision of <paramref name="key"/> that is older than <paramref name="revision"/>.</summary>
    public Task InvalidateAsync<T>(CacheKey<T> key, Revision revision, CancellationToken cancel) where T : class =>
        ReplaceAsync(
            key, revision, entryKey => CacheEntry.Tombstone(entryKey, revision, time.GetUtcNow()), TombstoneTtl, Moment.Now, cancel);

    /// <summary>The entity was deleted as of <paramref name="revision"/>: a negative entry of that revision is the tombstone.</summary>
    /// <param name="began">When the write began, before its commit.</param>
    public Task MarkDeletedAsync<T>(CacheKey<T> key, Revision revision, Moment began, CancellationToken cancel) where T : class
    {
        var settings = key.Cache.Options;
        var keep = settings.NegativeTtl > TombstoneTtl ? settings.NegativeTtl : TombstoneTtl;
        return ReplaceAsync(
            key,
            revision,
            entryKey => CacheEntry.Negative(entryKey, settings, revision, TimeSpan.Zero, time.GetUtcNow()),
            keep,
            began,
            cancel);
    }

    /// <summary>Clears a cache: every entry in it is invalid from now on, at the cost of one operation.</summary>
    /// <param name="cause">The write that makes the clear necessary, if there is one.</param>
    public async Task ClearAsync(string cache, Cause? cause, CancellationToken cancel)
    {
        // A new generation keeps later readers from joining a load under way, but loads that bypass Redis have no generation.
        flights.ForgetAll($"{cache}:");
        if (!await tiers.Namespaces.ClearAsync(cache, cause).WaitAsync(cancel) && tiers.Redis.IsConfigured)
        {
            queue.EnqueueClear(cache);
        }
    }

    /// <summary>As <see cref="ClearAsync"/>, unless the writers of all these causes have already cleared the cache.</summary>
    public async Task ClearUnlessCausedAsync(string cache, IReadOnlyCollection<Cause> causes, CancellationToken cancel)
    {
        flights.ForgetAll($"{cache}:");
        if (!tiers.Redis.IsConfigured)
        {
            await tiers.Namespaces.ClearAsync(cache, cause: null).WaitAsync(cancel);
        }
        else if (!await tiers.Namespaces.ClearUnlessCausedAsync(cache, causes, cancel))
        {
            queue.EnqueueClear(cache);
        }
    }

    /// <summary>
    /// Invalidates an entity whatever its version is. While Redis is away, the invalidation is queued. If versions order the entries, a
    /// clear of the whole cache is queued instead, because a tombstone without a version keeps no entry out.
    /// </summary>
    public async Task InvalidateAsync(Cache cache, string id, CancellationToken cancel)
    {
        if (await TryEvictAsync(cache, id, cancel))
        {
            return;
        }

        if (cache.IsOrdered)
        {
            await ClearAsync(cache.Name, cause: null, cancel);
        }
        else
        {
            Enqueue(cache, id, default);
        }
    }

    /// <summary>Queues an invalidation that Redis has missed.</summary>
    /// <remarks>
    /// This order of steps ensures that no other write can keep an older entry in memory: either it finds the queued invalidation, or its
    /// local epoch has passed. No later reader joins a load that has begun meanwhile, because that load may find an older entry in Redis.
    /// </remarks>
    internal void Enqueue(Cache cache, string id, Revision revision)
    {
        queue.Enqueue(cache.Name, id, revision);
        cache.InvalidateMemory(id, revision);
        flights.Forget($"{cache.Name}:{id}");
    }

    /// <summary>
    /// Evicts one entity from both tiers of every process, without a new version. A tombstone of the evicted revision replaces the entry:
    /// it admits that revision again, but no older one.
    /// </summary>
    /// <exception cref="UnavailableException">Redis is away: only this process has evicted it.</exception>
    public async Task EvictAsync(Cache cache, string id, CancellationToken cancel)
    {
        if (!await TryEvictAsync(cache, id, cancel))
        {
            throw new UnavailableException("Redis");
        }
    }

    private async Task<bool> TryEvictAsync(Cache cache, string id, CancellationToken cancel)
    {
        flights.Forget($"{cache.Name}:{id}");
        var evicted = !tiers.Redis.IsConfigured;
        for (var attempt = 0; attempt < MaxGenerations && !evicted; attempt++)
        {
            if (await tiers.Namespaces.CurrentAsync(cache.Name, cancel) is not { } epoch)
            {
                break;
            }

            var (answered, generation) = await tiers.Redis.EvictAsync(
                cache.Name, id, tiers.Namespaces.Key(cache, epoch, id), TombstoneTtl, cancel);
            evicted = answered && await tiers.Namespaces.IsCurrentAsync(cache.Name, epoch, generation, cancel);
        }

        cache.Memory.Invalidate(id, new(long.MaxValue));
        return evicted;
    }

    /// <summary>Puts an entry of a new revision, or queues the invalidation.</summary>
    /// <remarks>
    /// The entry must be in the generation that is current after the commit:
    /// 1. another process clears the cache, which moves to generation 8, and loads version 1; the message is still on its way to this one;
    /// 2. this process commits version 2 and puts it into generation 7;
    /// 3. every process serves version 1 of generation 8 until its TTL ends.
    /// So the generation is read with the put, after the commit. If it is another one, the put is repeated there. A later generation needs
    /// no put, because its loads begin after the commit.
    /// A generation that this process first saw after the write began gets a tombstone, not the value:
    /// 1. this process commits version 1, another process version 2, which it puts into generation 7;
    /// 2. the cache is cleared, or Redis loses all entries and the generation with them;
    /// 3. the put of version 1 arrives in generation 8, and finds nothing there: version 1 would be served until its TTL ends.
    /// So does an entity that was served as "not found" since the write began: it may have been deleted after the write.
    /// </remarks>
    internal async Task ReplaceAsync<T>(
        CacheKey<T> key, Revision revision, Func<EntryKey, CacheEntry> entry, TimeSpan timeToLive, Moment began, CancellationToken cancel)
        where T : class
    {
        var (cache, id) = (key.Cache.Name, key.Id);
        flights.Forget($"{cache}:{id}");
        if (!tiers.Redis.IsConfigured)
        {
            ReplaceInMemory(key, revision, entry);
            return;
        }

        for (var attempt = 0; attempt < MaxGenerations; attempt++)
        {
            if (await tiers.Namespaces.CurrentAsync(cache, cancel) is not { } epoch)
            {
                break;
            }

            var entryKey = tiers.Namespaces.Key(key.Cache, epoch, id);
            var isBefore = attempt == 0 && epoch.Since.Ticks <= began.Ticks
                && !tiers.Seen.ServedUnordered(cache, id, time.GetUtcNow() - Moment.Now.Since(began));
            var written = isBefore
                ? sizeLimit.Apply(key.Cache, entryKey, entry(entryKey))
                : CacheEntry.Tombstone(entryKey, revision, time.GetUtcNow());
            var write = await PutAsync(key, epoch, revision, written, isBefore ? timeToLive : TombstoneTtl, began, cancel);
            if (write.State is WriteState.Unavailable)
            {
                break;
            }

            if (await tiers.Namespaces.IsCurrentAsync(cache, epoch, write.Generation, cancel))
            {
                return;
            }
        }

        Enqueue(key.Cache, id, revision);
    }

    /// <summary>Puts an entry into both tiers of one epoch.</summary>
    private async Task<TierWrite> PutAsync<T>(
        CacheKey<T> key,
        Epoch epoch,
        Revision revision,
        CacheEntry written,
        TimeSpan timeToLive,
        Moment began,
        CancellationToken cancel)
        where T : class
    {
        // This process may have served a newer version, or may have queued its invalidation. The local epoch is taken before this check,
        // because a version that comes after the check makes the local epoch invalid.
        var (cache, id) = (key.Cache.Name, key.Id);
        var read = tiers.Memory.Begin(key.Cache, id, epoch);
        var isOlder = queue.Includes(cache, id) || revision < tiers.Seen.Highest(cache, id);
        var write = await tiers.Redis.WriteAsync(
            cache, id, tiers.Namespaces.Key(key.Cache, epoch, id), written, timeToLive, began, cancel);
        if (write.State is WriteState.Stored && !isOlder)
        {
            tiers.Memory.Replace(key.Cache, id, written, read, time.GetUtcNow());
        }
        else if (write.State is not WriteState.Unavailable)
        {
            key.Cache.InvalidateMemory(id, revision);
        }

        return write;
    }

    /// <summary>Without a Redis, no other process writes, and <see cref="SeenRevisions"/> replaces tombstones.</summary>
    private void ReplaceInMemory<T>(CacheKey<T> key, Revision revision, Func<EntryKey, CacheEntry> entry) where T : class
    {
        var read = tiers.Memory.Begin(key.Cache, key.Id, epoch: null);
        var isOlder = revision < tiers.Seen.Highest(key.Cache.Name, key.Id);
        var entryKey = tiers.Namespaces.Key(key.Cache, epoch: null, key.Id);
        var written = sizeLimit.Apply(key.Cache, entryKey, entry(entryKey));
        // Memory may evict the entry. Then an earlier write that arrives later must not take its place.
        tiers.Seen.Add(key.Cache, key.Id, written);
        if (isOlder)
        {
            key.Cache.InvalidateMemory(key.Id, revision);
        }
        else
        {
            tiers.Memory.Replace(key.Cache, key.Id, written, read, time.GetUtcNow());
        }
    }
}
