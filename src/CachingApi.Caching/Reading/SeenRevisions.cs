using System.Collections.Concurrent;

namespace CachingApi.Caching;

/// <summary>
/// The revisions that this process has served and that the current generation in Redis may not have. If Redis holds an older entry, the
/// value is loaded again, so that no reader goes back to it. The table is bounded and concerns this process only.
/// </summary>
/// <remarks>
/// A value without a revision, and "not found", are ordered by time:
/// 1. a writer commits a change;
/// 2. a reader finds Redis too slow, loads the changed value and serves it;
/// 3. the next reader finds the old value in Redis, because the writer has not updated the cache yet.
/// So the next reader takes the value only if its load began after the one of step 2 had ended.
/// </remarks>
internal sealed class SeenRevisions(TimeProvider time)
{
    private const int MaxEntries = 10_000;

    /// <summary>The tolerated difference between the clocks of two processes: an entry that is newer by less counts as older.</summary>
    private static readonly TimeSpan Skew = TimeSpan.FromSeconds(1);

    private readonly ConcurrentDictionary<(string Cache, string Id), Seen> _seen = new();
    private readonly ConcurrentDictionary<string, DateTimeOffset> _overflowed = new();
    private int _count;

    /// <summary>Records a served entry that Redis may not have.</summary>
    public void Add(Cache cache, string id, CacheEntry entry)
    {
        var now = time.GetUtcNow();
        if (Volatile.Read(ref _count) >= MaxEntries && !_seen.ContainsKey((cache.Name, id)))
        {
            // The table is full: until this time, every entry of the cache may be older than one that was served.
            _overflowed[cache.Name] = now + Skew;
            Clear(key => key.Cache == cache.Name);
            return;
        }

        // After that time, Redis holds no entry from before.
        var expires = now + cache.Options.Ttl + cache.Options.StaleFor + Invalidation.TombstoneTtl;
        var served = new Seen(entry.Revision, now + Skew, IsOrdered(entry) ? default : now + Skew, expires);
        _seen.AddOrUpdate(
            (cache.Name, id),
            (_, served) =>
            {
                Interlocked.Increment(ref _count);
                return served;
            },
            static (_, held, served) => held.With(served),
            served);
    }

    /// <summary>Whether an entry that Redis holds may be older than one that was served.</summary>
    public bool MayBeNewerThan(string cache, string id, CacheEntry entry)
    {
        if (_overflowed.TryGetValue(cache, out var until) && LoadBegan(entry) <= until)
        {
            return time.GetUtcNow() + Skew >= until; // unless the clock was set back
        }

        if (_seen.IsEmpty || !_seen.TryGetValue((cache, id), out var seen))
        {
            return false;
        }

        var began = LoadBegan(entry);
        var isOlder = IsOrdered(entry) && entry.Revision < seen.Revision
            || began <= (IsOrdered(entry) ? seen.UnorderedUntil : seen.Until);
        if (isOlder && time.GetUtcNow() < seen.Expires)
        {
            return true;
        }

        Remove(new((cache, id), seen));
        return false;
    }

    /// <summary>Removes the record of an entity, because Redis holds a newer value than all that were served.</summary>
    public void Remove(string cache, string id)
    {
        if (_seen.TryGetValue((cache, id), out var seen))
        {
            Remove(new((cache, id), seen));
        }
    }

    /// <summary>
    /// Whether "not found", or a value without a revision, was served since a time. A write that began before may be older than that.
    /// </summary>
    public bool ServedUnordered(string cache, string id, DateTimeOffset since) =>
        _overflowed.TryGetValue(cache, out var until) && until >= since
        || _seen.TryGetValue((cache, id), out var seen) && seen.UnorderedUntil >= since;

    /// <summary>The highest revision that was served.</summary>
    public Revision Highest(string cache, string id) => _seen.TryGetValue((cache, id), out var seen) ? seen.Revision : default;

    /// <summary>
    /// Removes all records, because a server was replaced or has lost data: served values may be lost with it, and revisions may start
    /// again.
    /// </summary>
    public void Clear() => Clear(_ => true);

    private void Clear(Func<(string Cache, string Id), bool> which)
    {
        foreach (var entry in _seen)
        {
            if (which(entry.Key))
            {
                Remove(entry);
            }
        }
    }

    private void Remove(KeyValuePair<(string Cache, string Id), Seen> entry)
    {
        if (_seen.TryRemove(entry))
        {
            Interlocked.Decrement(ref _count);
        }
    }

    private static bool IsOrdered(CacheEntry entry) => entry.Kind is EntryKind.Value && entry.Revision > default(Revision);

    private static DateTimeOffset LoadBegan(CacheEntry entry) => entry.Created - entry.LoadTime;

    /// <param name="Revision">The highest revision that was served.</param>
    /// <param name="Until">An entry whose load began before this time may be older than a served one.</param>
    /// <param name="UnorderedUntil">As <paramref name="Until"/>, for entries that were served without a revision.</param>
    /// <param name="Expires">The time after which Redis holds no entry from before.</param>
    private readonly record struct Seen(Revision Revision, DateTimeOffset Until, DateTimeOffset UnorderedUntil, DateTimeOffset Expires)
    {
        public Seen With(Seen other) => new(
            other.Revision > Revision ? other.Revision : Revision,
            Later(Until, other.Until),
            Later(UnorderedUntil, other.UnorderedUntil),
            Later(Expires, other.Expires));

        private static DateTimeOffset Later(DateTimeOffset one, DateTimeOffset other) => other > one ? other : one;
    }
}
