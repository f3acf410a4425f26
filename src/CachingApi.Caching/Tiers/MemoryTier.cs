using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Runtime.CompilerServices;

namespace CachingApi.Caching;

/// <summary>The epochs that a read takes before its first look-up: memory keeps its result only if nothing has changed since.</summary>
/// <param name="Epoch">The cache's epoch: see <see cref="Namespaces"/>.</param>
/// <param name="LocalEpoch">Counts the changes of entities like this one: see <see cref="MemoryTier"/>.</param>
/// <param name="Interruptions">See <see cref="Namespace.Interruptions"/>.</param>
internal readonly record struct ReadEpoch(Epoch Epoch, long LocalEpoch, int Interruptions);

/// <summary>
/// The first tier: entries in this process, as bytes, bounded in number (<see cref="S3FifoCache{T}"/>). It is trusted only while the
/// backplane is, because other processes publish their changes on the backplane.
/// </summary>
/// <remarks>
/// A reader may still hold an old entry when the message about a new one arrives:
/// 1. a reader's <c>GET</c> is answered with version 1;
/// 2. another process writes version 2 and its message arrives: memory has nothing to remove;
/// 3. the reader keeps version 1, which no later message would remove.
/// So a reader takes the local epoch before it asks Redis, and keeps nothing if that epoch has passed since.
/// Entries of an earlier epoch are not served, and are evicted like any that is not read.
/// </remarks>
internal sealed class MemoryTier
{
    private readonly ConcurrentDictionary<string, MemoryStore> _stores = new();
    private readonly Backplane _backplane;
    private readonly Namespaces _namespaces;

    public MemoryTier(Backplane backplane, Namespaces namespaces, IMeterFactory meters)
    {
        (_backplane, _namespaces) = (backplane, namespaces);
        backplane.Received += message =>
        {
            if (message.Event is BackplaneEvent.Invalidated && _stores.TryGetValue(message.Cache, out var store))
            {
                store.Invalidate(message.Id, message.Revision);
            }
        };

        var meter = meters.Create(CacheMetrics.MeterName);
        meter.CreateObservableGauge(
            "cache.entries", () => Measure(store => store.Count), description: "Entries in the memory of this process.");
        meter.CreateObservableCounter(
            "cache.evictions",
            () => Measure(store => store.Evicted),
            description: "Entries that were evicted from the memory of this process for others.");
    }

    /// <summary>The store of a cache's entries.</summary>
    public MemoryStore StoreOf(Cache cache) => _stores.GetOrAdd(
        cache.Name,
        static (name, from) => new(from.Options.MemoryEntries, from.Namespaces.Of(name)),
        (cache.Options, Namespaces: _namespaces));

    /// <summary>Finds the entry in memory that may be served as fresh.</summary>
    public bool TryFind<T>(Cache<T> cache, string id, DateTimeOffset now, out Kept kept) where T : class
    {
        kept = default;
        return cache.Options.InMemory && IsTrusted(cache) && cache.Memory.TryFind(id, now, out kept);
    }

    /// <summary>The entry of an entity in memory, and until when it may be served; <c>null</c> if there is none.</summary>
    public (CacheEntry Entry, DateTimeOffset Until)? Peek(Cache cache, string id) =>
        cache.Options.InMemory && cache.Memory.Peek(id) is { } kept
            ? (kept.Entry, IsTrusted(cache) ? kept.Until : DateTimeOffset.MinValue)
            : null;

    /// <summary>Begins a read. Call it before asking Redis or the source.</summary>
    /// <param name="epoch">The epoch whose generation the read's keys contain; <c>null</c> if Redis is away.</param>
    public ReadEpoch Begin(Cache cache, string id, Epoch? epoch)
    {
        var space = _namespaces.Of(cache.Name);
        var interruptions = space.Interruptions;
        return new(epoch ?? space.Current, cache.Memory.LocalEpoch(id), interruptions);
    }

    /// <summary>Keeps a served entry, unless something has changed since the read began. An older entry is removed.</summary>
    /// <param name="timeToLive">The maximum time that it is kept; <c>null</c> for <see cref="CacheOptions.MemoryTtl"/>.</param>
    public void Keep(Cache cache, string id, CacheEntry entry, ReadEpoch read, DateTimeOffset now, TimeSpan? timeToLive = null)
    {
        if (!IsTrusted(cache) || !entry.IsFresh(now))
        {
            cache.InvalidateMemory(id, entry.Revision);
        }
        else if (cache.Options.InMemory)
        {
            var until = now + (timeToLive ?? cache.Options.MemoryTtl);
            cache.Memory.Keep(id, new(entry, until < entry.FreshUntil ? until : entry.FreshUntil, read.Epoch), read.LocalEpoch);
        }
    }

    /// <summary>
    /// As <see cref="MemoryStore.Invalidate"/>, and then keeps the written entry, unless something else has changed since, or memory kept a
    /// later entry before the cache was cleared.
    /// </summary>
    public void Replace(Cache cache, string id, CacheEntry written, ReadEpoch read, DateTimeOffset now, ReadOptions options = default)
    {
        if (cache.Options.InMemory
            && cache.InvalidateMemory(id, written.Revision) == read.LocalEpoch + 1
            && written.Revision >= cache.Memory.LastKept(id, now)
            && (options.Skips & ReadSkips.MemoryWrite) == 0)
        {
            Keep(cache, id, written, read with { LocalEpoch = read.LocalEpoch + 1 }, now, options.MemoryTtl);
        }
    }

    private bool IsTrusted(Cache cache) => !cache.RequiresBackplane || _backplane.IsTrusted;

    private IEnumerable<Measurement<long>> Measure(Func<MemoryStore, long> value) =>
        _stores.Select(store => new Measurement<long>(value(store.Value), new KeyValuePair<string, object?>("cache", store.Key)));
}

/// <summary>An entry in memory, and what a hit needs to know about it, so that a hit does not read the entry.</summary>
/// <param name="epoch">The epoch that it was read under.</param>
/// <param name="until">Until when it is served.</param>
internal readonly struct Kept(CacheEntry entry, DateTimeOffset until, Epoch epoch)
{
    private readonly DateTime _until = until.UtcDateTime;
    private readonly DateTime _refreshFrom = EarlyRefresh.PossibleFrom(entry);

    public CacheEntry Entry => entry;

    public Epoch Epoch => epoch;

    public DateTimeOffset Until => _until;

    /// <summary>Whether the entity does not exist.</summary>
    public bool IsNegative { get; } = entry.Kind is EntryKind.Negative;

    public bool IsServed(DateTimeOffset now) => now.UtcDateTime < _until;

    /// <summary>Whether an early refresh may be due.</summary>
    public bool MayRefresh(DateTimeOffset now) => now.UtcDateTime >= _refreshFrom;
}

/// <summary>The entries of one cache in the memory of this process.</summary>
internal sealed class MemoryStore
{
    /// <summary>The entities of one stripe share a local epoch: of two that are read at the same time, one may not be kept.</summary>
    private const int Stripes = 1024;

    private readonly S3FifoCache<Kept> _entries;
    private readonly StrongBox<long>[] _changes = [.. Enumerable.Range(0, Stripes).Select(_ => new StrongBox<long>())];
    private readonly Namespace _namespace;

    private long _evicted;

    public MemoryStore(int capacity, Namespace space)
    {
        _namespace = space;
        _entries = new(capacity, (kept, isEvicted) =>
        {
            kept.Epoch.Removed();
            if (isEvicted && kept.Epoch == _namespace.Current)
            {
                Interlocked.Increment(ref _evicted);
            }
        });
    }

    /// <summary>How many entries of the current epoch there are.</summary>
    public long Count => _namespace.Current.Entries;

    /// <summary>How many entries use memory, including those of earlier epochs.</summary>
    public int Held => _entries.Count;

    public long Evicted => Volatile.Read(ref _evicted);

    public bool TryFind(string id, DateTimeOffset now, out Kept kept) =>
        _entries.TryGet(id, out kept) && kept.Epoch == _namespace.Current && kept.IsServed(now);

    public Kept? Peek(string id) => _entries.TryGet(id, out var kept) && kept.Epoch == _namespace.Current ? kept : null;

    /// <summary>
    /// The revision of the last entry that memory kept of an entity, even if the cache has been cleared since. No reader of this process
    /// goes back to an older revision in Redis.
    /// </summary>
    public Revision LastKept(string id, DateTimeOffset now) =>
        _entries.TryGet(id, out var kept) && kept.IsServed(now) ? kept.Entry.Revision : default;

    /// <summary>Some of the entities that are kept, in no order.</summary>
    public IReadOnlyList<string> Sample(int count)
    {
        var epoch = _namespace.Current;
        var offset = Random.Shared.Next(Math.Max(1, _entries.Count - count));
        return [.. _entries.Entries.Skip(offset).Where(entry => entry.Value.Epoch == epoch).Select(entry => entry.Key).Take(count)];
    }

    public long LocalEpoch(string id) => Volatile.Read(ref Stripe(id).Value);

    public void Keep(string id, Kept kept, long localEpoch)
    {
        var changes = Stripe(id);
        lock (changes)
        {
            var held = Peek(id)?.Entry;
            if (changes.Value == localEpoch && kept.Epoch == _namespace.Current && !(held?.Revision > kept.Entry.Revision))
            {
                kept.Epoch.Added();
                _entries.Set(id, kept);
            }
            else if (held?.Revision < kept.Entry.Revision)
            {
                _entries.Remove(id);
            }

            // This revision has been served: readers that hold an older one must not cache it.
            if (held is null || held.Revision < kept.Entry.Revision)
            {
                changes.Value++;
            }
        }
    }

    /// <summary>
    /// Called when this process has written or served this revision, or another process has written it. Removes an older entry, and makes
    /// sure that readers that hold one do not cache it. Returns the new local epoch.
    /// </summary>
    public long Invalidate(string id, Revision revision)
    {
        var changes = Stripe(id);
        lock (changes)
        {
            changes.Value++;
            if (_entries.TryGet(id, out var held) && held.Entry.Revision < revision)
            {
                _entries.Remove(id);
            }

            return changes.Value;
        }
    }

    public void Remove(string id) => _entries.Remove(id);

    private StrongBox<long> Stripe(string id) => _changes[(uint)id.GetHashCode() % Stripes];
}
