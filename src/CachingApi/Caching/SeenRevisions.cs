using System.Collections.Concurrent;

namespace CachingApi.Caching;

/// <summary>
/// The revisions that this process has served from the source while Redis was away. Redis may still hold older ones: they are
/// loaded again, so that no reader goes back to them. Bounded, and of no consequence for other processes.
/// </summary>
internal sealed class SeenRevisions(TimeProvider time)
{
    private const int MaxEntries = 10_000;

    /// <summary>Entries that processes with clocks that differ by less than this have made are taken for older.</summary>
    private static readonly TimeSpan Skew = TimeSpan.FromSeconds(1);

    private readonly ConcurrentDictionary<(string Cache, string Id), Revision> _seen = new();
    private readonly ConcurrentDictionary<string, DateTimeOffset> _overflowed = new();

    public void Add(string cache, string id, Revision revision)
    {
        if (_seen.Count < MaxEntries || _seen.ContainsKey((cache, id)))
        {
            _seen.AddOrUpdate((cache, id), static (_, seen) => seen, static (_, held, seen) => held > seen ? held : seen, revision);
        }
        else
        {
            // Too many to remember: until this time every entry of the cache may be older than the one that was served.
            _overflowed[cache] = time.GetUtcNow() + Skew;
        }
    }

    /// <summary>Whether an entry that Redis holds may be older than one that was served.</summary>
    public bool MayBeNewerThan(string cache, string id, CacheEntry entry)
    {
        if (_overflowed.TryGetValue(cache, out var until) && entry.Created <= until)
        {
            return true;
        }

        if (_seen.IsEmpty || !_seen.TryGetValue((cache, id), out var seen))
        {
            return false;
        }

        if (entry.Revision < seen)
        {
            return true;
        }

        _seen.TryRemove(new((cache, id), seen));
        return false;
    }
}
