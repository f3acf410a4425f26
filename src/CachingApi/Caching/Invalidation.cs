using CachingApi.Storage;

namespace CachingApi.Caching;

/// <summary>
/// Invalidation, after the commit: a short-lived tombstone with the new version takes the entry's place, so that a slow
/// reader cannot put back what was replaced. When Redis is away, what it should have heard is remembered.
/// </summary>
/// <remarks>
/// The race that a plain delete loses (Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1):
/// 1. a reader misses and loads version 1;
/// 2. a writer commits version 2 and deletes the entry;
/// 3. the reader stores version 1, which stays until its TTL ends.
/// With a tombstone of version 2 in place, step 3 is refused.
/// </remarks>
internal sealed class Invalidation(
    MemoryTier memory, RedisTier redis, Namespaces namespaces, OwedInvalidations owed, SingleFlight<CacheResult> flights, TimeProvider time)
{
    /// <summary>Longer than any load may take (see <see cref="CachingOptions.LoadTimeout"/>).</summary>
    public static TimeSpan TombstoneTtl { get; } = TimeSpan.FromSeconds(30);

    /// <summary>Whatever is cached for <paramref name="key"/> and is older than <paramref name="version"/> is void from now on.</summary>
    public Task InvalidateAsync<T>(CacheKey<T> key, long version, CancellationToken cancel) where T : class =>
        ReplaceAsync(key, version, entryKey => CacheEntry.Tombstone(entryKey, version, time.GetUtcNow()), TombstoneTtl, cancel);

    /// <summary>The thing was deleted as of <paramref name="version"/>: a negative entry of that version is the tombstone.</summary>
    public Task DeletedAsync<T>(CacheKey<T> key, long version, CancellationToken cancel) where T : class
    {
        var settings = key.Cache.Settings;
        var keep = settings.NegativeTtl > TombstoneTtl ? settings.NegativeTtl : TombstoneTtl;
        return ReplaceAsync(
            key, version, entryKey => CacheEntry.Negative(entryKey, settings, version, TimeSpan.Zero, time.GetUtcNow()), keep, cancel);
    }

    /// <summary>Everything in a cache is void from now on, at the cost of one operation.</summary>
    public async Task DropAllAsync(Cache cache, CancellationToken cancel)
    {
        // A new generation keeps later readers from joining what is being loaded, but around Redis there are no generations.
        flights.ForgetAll($"{cache.Name}:");
        if (!await namespaces.BumpAsync(cache.Name, cancel))
        {
            owed.AddBump(cache.Name);
        }

        memory.Drop(cache);
    }

    /// <summary>
    /// Takes one entry out of both tiers of every process, without a new version. What is being loaded is not kept, and what it
    /// kept out stays out: a tombstone of its own version takes its place, which lets that version in again, and no older one.
    /// </summary>
    /// <exception cref="UnavailableException">Redis is away: only this process has dropped it.</exception>
    public async Task EvictAsync(Cache cache, string id, CancellationToken cancel)
    {
        flights.Forget($"{cache.Name}:{id}");
        var generation = await namespaces.CurrentAsync(cache.Name, cancel);
        var evicted = generation is { } current && await redis.EvictAsync(cache.Name, id, namespaces.Key(cache.Name, current, id), TombstoneTtl, cancel);
        memory.Changed(cache, id, long.MaxValue);
        if (!evicted)
        {
            throw new UnavailableException("Redis");
        }
    }

    /// <summary>Puts an entry of a new version in place, or remembers that this is to be done.</summary>
    internal async Task ReplaceAsync<T>(
        CacheKey<T> key, long version, Func<EntryKey, CacheEntry> entry, TimeSpan timeToLive, CancellationToken cancel)
        where T : class
    {
        var (cache, id) = (key.Cache.Name, key.Id);
        flights.Forget($"{cache}:{id}");

        var ticket = memory.Ticket(key.Cache, id);
        var generation = await namespaces.CurrentAsync(cache, cancel);
        var entryKey = namespaces.Key(cache, generation ?? 0, id);
        var written = entry(entryKey);
        var state = generation is null
            ? WriteState.Unavailable
            : (await redis.WriteAsync(cache, id, entryKey, written, timeToLive, cancel)).State;
        if (state is WriteState.Stored)
        {
            memory.Replace(key.Cache, id, written, ticket, time.GetUtcNow());
            return;
        }

        memory.Changed(key.Cache, id, version);
        if (state is WriteState.Unavailable)
        {
            owed.Add(cache, id, version, written: true);
        }
    }
}
