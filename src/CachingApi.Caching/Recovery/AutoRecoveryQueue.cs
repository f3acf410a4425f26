namespace CachingApi.Caching;

/// <summary>
/// The invalidations that Redis missed while it was away. Until they are replayed, the affected entries in Redis may be older than the
/// values that this process has written, so they are not served.
/// </summary>
internal sealed class AutoRecoveryQueue
{
    /// <summary>Beyond this many entries, whole caches are cleared instead.</summary>
    private const int MaxEntries = 10_000;

    private readonly Lock _lock = new();
    private readonly Dictionary<(string Cache, string Id), Revision> _entries = [];
    private readonly Dictionary<string, long> _clears = [];
    private volatile bool _any;

    public bool IsEmpty => !_any;

    /// <summary>Whether the entry that Redis holds for this entity must not be served yet.</summary>
    public bool Includes(string cache, string id)
    {
        if (!_any)
        {
            return false;
        }

        lock (_lock)
        {
            return _clears.ContainsKey(cache) || _entries.ContainsKey((cache, id));
        }
    }

    /// <summary>Every revision that Redis holds for this entity and that is older than <paramref name="revision"/> is invalid.</summary>
    public void Enqueue(string cache, string id, Revision revision)
    {
        lock (_lock)
        {
            if (_entries.Count >= MaxEntries && !_entries.ContainsKey((cache, id)))
            {
                _clears[cache] = _clears.GetValueOrDefault(cache) + 1;
            }
            else
            {
                var held = _entries.GetValueOrDefault((cache, id));
                _entries[(cache, id)] = held > revision ? held : revision;
            }

            _any = true;
        }
    }

    /// <summary>Every entry that Redis holds in this cache is invalid.</summary>
    public void EnqueueClear(string cache)
    {
        lock (_lock)
        {
            _clears[cache] = _clears.GetValueOrDefault(cache) + 1;
            _any = true;
        }
    }

    public KeyValuePair<(string Cache, string Id), Revision>[] Entries()
    {
        lock (_lock)
        {
            return [.. _entries];
        }
    }

    public KeyValuePair<string, long>[] Clears()
    {
        lock (_lock)
        {
            return [.. _clears];
        }
    }

    /// <summary>Removes an invalidation that was replayed, unless a later one has taken its place meanwhile.</summary>
    public void Complete(KeyValuePair<(string Cache, string Id), Revision> entry) => Remove(_entries, entry);

    /// <summary>As for an entry.</summary>
    public void Complete(KeyValuePair<string, long> clear) => Remove(_clears, clear);

    private void Remove<TKey, TValue>(Dictionary<TKey, TValue> from, KeyValuePair<TKey, TValue> replayed)
        where TKey : notnull
        where TValue : struct, IEquatable<TValue>
    {
        lock (_lock)
        {
            if (from.TryGetValue(replayed.Key, out var held) && held.Equals(replayed.Value))
            {
                from.Remove(replayed.Key);
            }

            _any = _entries.Count + _clears.Count > 0;
        }
    }
}
