using CachingApi.Storage;

namespace CachingApi.Caching;

/// <summary>
/// Invalidation, after the commit: a short-lived tombstone with the new revision takes the entry's place, so that a slow reader
/// cannot put back what was replaced. While Redis is away, the invalidation is queued for its return.
/// </summary>
/// <remarks>
/// The race that a plain delete loses (Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1):
/// 1. a reader misses and loads version 1;
/// 2. a writer commits version 2 and deletes the entry;
/// 3. the reader stores version 1, which stays until its TTL ends.
/// With a tombstone of version 2 in place, step 3 is refused.
/// </remarks>
internal sealed class Invalidation(
    MemoryTier memory,
    RedisTier redis,
    Namespaces namespaces,
    OwedInvalidations owed,
    SingleFlight<CacheResult> flights,
    EntrySizeLimit sizeLimit,
    TimeProvider time)
{
    /// <summary>Longer than any load may take (see <see cref="CachingOptions.LoadTimeout"/>).</summary>
    public static TimeSpan TombstoneTtl { get; } = TimeSpan.FromSeconds(30);

    /// <summary>How often an entry is written again because the cache has been cleared meanwhile; beyond that, it is queued.</summary>
    private const int MaxGenerations = 5;

    /// <summary>Invalidates every cached revision of <paramref name="key"/> that is older than <paramref name="revision"/>.</summary>
    public Task InvalidateAsync<T>(CacheKey<T> key, Revision revision, CancellationToken cancel) where T : class =>
        ReplaceAsync(key, revision, entryKey => CacheEntry.Tombstone(entryKey, revision, time.GetUtcNow()), TombstoneTtl, Moment.Now, cancel);

    /// <summary>The entity was deleted as of <paramref name="revision"/>: a negative entry of that revision is the tombstone.</summary>
    /// <param name="began">When the write began, before its commit.</param>
    public Task DeletedAsync<T>(CacheKey<T> key, Revision revision, Moment began, CancellationToken cancel) where T : class
    {
        var settings = key.Cache.Settings;
        var keep = settings.NegativeTtl > TombstoneTtl ? settings.NegativeTtl : TombstoneTtl;
        return ReplaceAsync(
            key, revision, entryKey => CacheEntry.Negative(entryKey, settings, revision, TimeSpan.Zero, time.GetUtcNow()), keep, began, cancel);
    }

    /// <summary>Clears a cache: every entry in it is invalid from now on, at the cost of one operation.</summary>
    /// <param name="cause">The write that makes it necessary, if it is one.</param>
    public async Task DropAllAsync(Cache cache, Cause? cause, CancellationToken cancel)
    {
        // A new generation keeps later readers from joining a load under way, but around Redis there are no generations.
        flights.ForgetAll($"{cache.Name}:");
        if (!await namespaces.BumpAsync(cache.Name, cause).WaitAsync(cancel))
        {
            owed.AddBump(cache.Name);
        }
    }

    /// <summary>As <see cref="DropAllAsync"/>, unless the writers themselves have done so for each of these causes.</summary>
    public async Task DropUnlessCausedAsync(Cache cache, IReadOnlyCollection<Cause> causes, CancellationToken cancel)
    {
        flights.ForgetAll($"{cache.Name}:");
        if (!await namespaces.BumpUnlessCausedAsync(cache.Name, causes, cancel))
        {
            owed.AddBump(cache.Name);
        }
    }

    /// <summary>
    /// Evicts one entity from both tiers of every process, without a new version. A tombstone of the evicted revision takes its
    /// place, which admits that revision again and no older one.
    /// </summary>
    /// <exception cref="UnavailableException">Redis is away: only this process has evicted it.</exception>
    public async Task EvictAsync(Cache cache, string id, CancellationToken cancel)
    {
        flights.Forget($"{cache.Name}:{id}");
        var evicted = false;
        for (var attempt = 0; attempt < MaxGenerations && !evicted; attempt++)
        {
            if (await namespaces.CurrentAsync(cache.Name, cancel) is not { } epoch)
            {
                break;
            }

            var (answered, generation) = await redis.EvictAsync(cache.Name, id, namespaces.Key(cache, epoch, id), TombstoneTtl, cancel);
            evicted = answered && await namespaces.IsCurrentAsync(cache.Name, epoch, generation, cancel);
        }

        memory.Changed(cache, id, new(long.MaxValue));
        if (!evicted)
        {
            throw new UnavailableException("Redis");
        }
    }

    /// <summary>Puts an entry of a new revision in place, or queues that.</summary>
    /// <remarks>
    /// The entry must be in the generation that is the current one after the commit:
    /// 1. another process clears the cache, which moves to generation 8, and loads version 1; the message is still on its way to this one;
    /// 2. this process commits version 2 and puts it into generation 7;
    /// 3. every process serves version 1 of generation 8 until its TTL ends.
    /// So the generation is read with the put, after the commit, and the put is repeated if it is another one. A later generation
    /// needs nothing: its loads begin after the commit.
    /// </remarks>
    internal async Task ReplaceAsync<T>(
        CacheKey<T> key, Revision revision, Func<EntryKey, CacheEntry> entry, TimeSpan timeToLive, Moment began, CancellationToken cancel)
        where T : class
    {
        var (cache, id) = (key.Cache.Name, key.Id);
        flights.Forget($"{cache}:{id}");

        for (var attempt = 0; attempt < MaxGenerations; attempt++)
        {
            if (await namespaces.CurrentAsync(cache, cancel) is not { } epoch)
            {
                break;
            }

            var read = memory.Begin(key.Cache, id, epoch);
            var entryKey = namespaces.Key(key.Cache, epoch, id);
            var written = sizeLimit.Apply(key.Cache, entryKey, entry(entryKey));
            var write = await redis.WriteAsync(cache, id, entryKey, written, timeToLive, began, cancel);
            if (write.State is WriteState.Unavailable)
            {
                break;
            }

            if (write.State is WriteState.Stored)
            {
                memory.Replace(key.Cache, id, written, read, time.GetUtcNow());
            }
            else
            {
                memory.Changed(key.Cache, id, revision);
            }

            if (await namespaces.IsCurrentAsync(cache, epoch, write.Generation, cancel))
            {
                return;
            }
        }

        memory.Changed(key.Cache, id, revision);
        owed.Add(cache, id, revision);
    }
}
