using System.Text.Json.Serialization.Metadata;

namespace CachingApi.Caching;

/// <summary>One kind of cached thing: what holds for it whatever its type.</summary>
internal abstract class Cache(string name, CacheSettings settings, bool isVoided)
{
    public string Name => name;

    public CacheSettings Settings => settings;

    public bool IsVoided => isVoided;

    /// <summary>What the memory tier keeps of it.</summary>
    internal object? Memory { get; set; }
}

/// <summary>One kind of cached thing: its name, its lifetimes, its JSON and where its version is.</summary>
/// <param name="name">The name in keys, metrics and configuration.</param>
/// <param name="version">Reads the version by which entries are ordered; things without one give 0.</param>
/// <param name="isVoided">
/// Whether entries may be void before their time, as writers say so: memory counts only while it would hear of that.
/// </param>
/// <param name="freshUntil">Until when a thing that is loaded now is fresh, where it says so itself; the TTL is the upper bound.</param>
internal sealed class Cache<T>(
    string name,
    CacheSettings settings,
    JsonTypeInfo<T> json,
    Func<T, long> version,
    bool isVoided = true,
    Func<T, DateTimeOffset, DateTimeOffset>? freshUntil = null)
    : Cache(name, settings, isVoided)
    where T : class
{
    public JsonTypeInfo<T> Json => json;

    /// <summary>What the last load cost: an entry that was written, not loaded, would cost as much.</summary>
    internal TimeSpan LastLoadTime { get; set; }

    public long VersionOf(T value) => version(value);

    /// <summary>The sooner of <paramref name="bound"/> and the time that the value says itself.</summary>
    public DateTimeOffset FreshUntil(T value, DateTimeOffset now, DateTimeOffset bound) =>
        freshUntil?.Invoke(value, now) is { } sooner && sooner < bound ? sooner : bound;

    public CacheKey<T> Key(string id) => new(this, id);
}

/// <summary>One thing in a cache.</summary>
internal readonly record struct CacheKey<T>(Cache<T> Cache, string Id) where T : class;
