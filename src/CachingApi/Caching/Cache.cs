using System.Text.Json.Serialization.Metadata;

namespace CachingApi.Caching;

/// <summary>One cache: what holds for it whatever the type of its values.</summary>
internal abstract class Cache(string name, CacheSettings settings, ulong shape, bool requiresBackplane)
{
    public string Name => name;

    public CacheSettings Settings => settings;

    /// <summary>Hash of the shape of the cached type.</summary>
    public ulong Shape => shape;

    /// <summary>True if writers can invalidate entries before expiry; memory is then used only while the backplane is healthy.</summary>
    public bool RequiresBackplane => requiresBackplane;

    /// <summary>Keys that are being read: see <see cref="ConsistencyChecker"/>.</summary>
    internal RecentKeys Recent { get; } = new();

    /// <summary>The part of the memory tier that holds this cache's entries.</summary>
    internal object? Memory { get; set; }
}

/// <summary>One cache: its name, its lifetimes, its JSON, and how its values are ordered.</summary>
/// <param name="name">The name in keys, metrics and configuration.</param>
/// <param name="version">Reads the version by which entries are ordered; 0 for values without a version.</param>
/// <param name="requiresBackplane">See <see cref="Cache.RequiresBackplane"/>.</param>
/// <param name="freshUntil">Until when a value that is loaded now is fresh, if the value says so; the TTL is the upper bound.</param>
/// <param name="fence">Reads the fencing token of the write that made the value, which orders equal versions.</param>
internal sealed class Cache<T>(
    string name,
    CacheSettings settings,
    JsonTypeInfo<T> json,
    Func<T, long> version,
    bool requiresBackplane = true,
    Func<T, DateTimeOffset, DateTimeOffset>? freshUntil = null,
    Func<T, long>? fence = null)
    : Cache(name, settings, TypeShape.Of(json), requiresBackplane)
    where T : class
{
    public JsonTypeInfo<T> Json => json;

    /// <summary>The duration of the last load: an entry that was written, not loaded, is assumed to cost as much.</summary>
    internal TimeSpan LastLoadTime { get; set; }

    public Revision RevisionOf(T value) => new(version(value), fence?.Invoke(value) ?? 0);

    /// <summary>The sooner of <paramref name="bound"/> and the time that the value itself gives.</summary>
    public DateTimeOffset FreshUntil(T value, DateTimeOffset now, DateTimeOffset bound) =>
        freshUntil?.Invoke(value, now) is { } sooner && sooner < bound ? sooner : bound;

    public CacheKey<T> Key(string id) => new(this, id);

    /// <summary>A load, by key, of an entry that is not cached: its revision and checksum are comparable with those of cached ones.</summary>
    /// <param name="load">The load that reads of this cache use.</param>
    public Func<string, CancellationToken, Task<CacheEntry>> Source(Func<string, CancellationToken, Task<T?>> load) => async (id, cancel) =>
    {
        var (key, value) = (new EntryKey(id, Shape), await load(id, cancel));
        return value is null
            ? CacheEntry.Negative(key, Settings, default, TimeSpan.Zero, DateTimeOffset.UnixEpoch)
            : CacheEntry.Of(key, this, value, TimeSpan.Zero, DateTimeOffset.UnixEpoch);
    };
}

/// <summary>One entity in a cache.</summary>
internal readonly record struct CacheKey<T>(Cache<T> Cache, string Id) where T : class;
