namespace CachingApi.Caching;

/// <summary>
/// The versions that this process has written or shown while Redis was away. Until Redis has heard of them, what it holds in
/// their place may be older, and is not served.
/// </summary>
internal sealed class OwedInvalidations
{
    /// <summary>Beyond this many, whole caches are dropped instead of single entries.</summary>
    private const int MaxEntries = 10_000;

    private readonly Lock _lock = new();
    private readonly Dictionary<(string Cache, string Id), Owed> _entries = [];
    private readonly Dictionary<string, long> _bumps = [];
    private volatile bool _any;

    public bool IsEmpty => !_any;

    /// <summary>Whether what Redis holds for this thing must not be served yet.</summary>
    public bool Includes(string cache, string id)
    {
        if (!_any)
        {
            return false;
        }

        lock (_lock)
        {
            return _bumps.ContainsKey(cache) || _entries.ContainsKey((cache, id));
        }
    }

    /// <summary>Whatever Redis holds for this thing and is older than <paramref name="version"/> is void.</summary>
    /// <param name="written">Whether this process wrote that version, of which the others must hear; or only showed it.</param>
    public void Add(string cache, string id, long version, bool written)
    {
        lock (_lock)
        {
            if (_entries.Count >= MaxEntries && !_entries.ContainsKey((cache, id)))
            {
                _bumps[cache] = _bumps.GetValueOrDefault(cache) + 1;
            }
            else
            {
                var owed = _entries.GetValueOrDefault((cache, id));
                _entries[(cache, id)] = new(Math.Max(owed.Version, version), owed.Written || written);
            }

            _any = true;
        }
    }

    /// <summary>Whatever Redis holds in this cache is void.</summary>
    public void AddBump(string cache)
    {
        lock (_lock)
        {
            _bumps[cache] = _bumps.GetValueOrDefault(cache) + 1;
            _any = true;
        }
    }

    public KeyValuePair<(string Cache, string Id), Owed>[] Entries()
    {
        lock (_lock)
        {
            return [.. _entries];
        }
    }

    public KeyValuePair<string, long>[] Bumps()
    {
        lock (_lock)
        {
            return [.. _bumps];
        }
    }

    /// <summary>Strikes out what was made up for, unless something was added to it meanwhile.</summary>
    public void Paid(KeyValuePair<(string Cache, string Id), Owed> entry) => StrikeOut(_entries, entry);

    /// <summary>As for an entry.</summary>
    public void Paid(KeyValuePair<string, long> bump) => StrikeOut(_bumps, bump);

    private void StrikeOut<TKey, TValue>(Dictionary<TKey, TValue> from, KeyValuePair<TKey, TValue> paid)
        where TKey : notnull
        where TValue : struct, IEquatable<TValue>
    {
        lock (_lock)
        {
            if (from.TryGetValue(paid.Key, out var owed) && owed.Equals(paid.Value))
            {
                from.Remove(paid.Key);
            }

            _any = _entries.Count + _bumps.Count > 0;
        }
    }
}

/// <summary>A version that Redis has not heard of.</summary>
internal readonly record struct Owed(long Version, bool Written);
