using System.Collections.Concurrent;

namespace CachingApi.Caching;

/// <summary>
/// The versions that this process has written or read while Redis was away. Until Redis has heard of them, what it holds may
/// be older than what was acknowledged or shown, and is not served.
/// </summary>
internal sealed class OwedInvalidations
{
    /// <summary>Beyond this many, whole caches are dropped instead of single entries.</summary>
    private const int MaxEntries = 10_000;

    private readonly ConcurrentDictionary<(string Cache, string Id), long> _entries = new();
    private readonly ConcurrentDictionary<string, long> _bumps = new();

    public bool IsEmpty => _entries.IsEmpty && _bumps.IsEmpty;

    /// <summary>Whatever is held for this thing and is older than <paramref name="version"/> is void.</summary>
    public void Add(string cache, string id, long version)
    {
        if (_entries.Count >= MaxEntries)
        {
            AddBump(cache);
            return;
        }

        _entries.AddOrUpdate((cache, id), version, (_, owed) => Math.Max(owed, version));
    }

    /// <summary>Whatever is held in this cache is void.</summary>
    public void AddBump(string cache) => _bumps.AddOrUpdate(cache, 1, (_, owed) => owed + 1);

    public KeyValuePair<(string Cache, string Id), long>[] Entries() => _entries.ToArray();

    public KeyValuePair<string, long>[] Bumps() => _bumps.ToArray();

    /// <summary>Strikes out what was made up for, unless a later write added to it meanwhile.</summary>
    public void Paid(KeyValuePair<(string Cache, string Id), long> entry) => _entries.TryRemove(entry);

    /// <inheritdoc cref="Paid(KeyValuePair{ValueTuple{string, string}, long})"/>
    public void Paid(KeyValuePair<string, long> bump) => _bumps.TryRemove(bump);
}
