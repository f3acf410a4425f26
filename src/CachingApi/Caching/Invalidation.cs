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
        var epoch = await namespaces.CurrentAsync(cache.Name, cancel);
        var evicted = epoch is not null && await redis.EvictAsync(cache.Name, id, namespaces.Key(cache, epoch, id), TombstoneTtl, cancel);
        memory.Changed(cache, id, new(long.MaxValue));
        if (!evicted)
        {
            throw new UnavailableException("Redis");
        }
    }

    /// <summary>Puts an entry of a new revision in place, or queues that.</summary>
    internal async Task ReplaceAsync<T>(
        CacheKey<T> key, Revision revision, Func<EntryKey, CacheEntry> entry, TimeSpan timeToLive, Moment began, CancellationToken cancel)
        where T : class
    {
        var (cache, id) = (key.Cache.Name, key.Id);
        flights.Forget($"{cache}:{id}");

        var epoch = await namespaces.CurrentAsync(cache, cancel);
        var read = memory.Begin(key.Cache, id, epoch);
        var entryKey = namespaces.Key(key.Cache, epoch, id);
        var written = sizeLimit.Apply(key.Cache, entryKey, entry(entryKey));
        var state = epoch is null
            ? WriteState.Unavailable
            : (await redis.WriteAsync(cache, id, entryKey, written, timeToLive, began, cancel)).State;
        if (state is WriteState.Stored)
        {
            memory.Replace(key.Cache, id, written, read, time.GetUtcNow());
            return;
        }

        memory.Changed(key.Cache, id, revision);
        if (state is WriteState.Unavailable)
        {
            owed.Add(cache, id, revision);
        }
    }
}
