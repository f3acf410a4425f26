using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Runtime.CompilerServices;
using BitFaster.Caching;
using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;

namespace CachingApi.Caching;

/// <summary>What a read takes before its first look-up: memory keeps its result only if nothing has changed since.</summary>
/// <param name="Epoch">The cache's epoch: see <see cref="Namespaces"/>.</param>
/// <param name="Ticket">Counts the changes of entities like this one: see <see cref="MemoryTier"/>.</param>
internal readonly record struct ReadEpoch(Epoch Epoch, long Ticket);

/// <summary>
/// The first tier: entries in this process, as bytes, bounded in number by a W-TinyLFU cache (BitFaster). It is trusted only
/// while the backplane is, because the other processes publish their changes there.
/// </summary>
/// <remarks>
/// A reader may still hold an old entry when the message about a new one passes:
/// 1. a reader's <c>GET</c> is answered with version 1;
/// 2. another process writes version 2 and its message arrives: there is nothing here to remove;
/// 3. the reader keeps version 1, which no message would ever remove.
/// So a reader takes a ticket before it asks Redis, and keeps nothing if something has changed under that ticket since.
/// The library's own <c>Clear</c> is not used: it leaves behind what is added meanwhile, beyond the bound. Entries of an earlier
/// epoch are not served, and make room like any that is not read.
/// </remarks>
internal sealed class MemoryTier
{
    /// <summary>Entities of one stripe disturb each other: of two that are read at the same moment one is not kept.</summary>
    private const int Stripes = 1024;

    private readonly ConcurrentDictionary<string, Store> _stores = new();
    private readonly Backplane _backplane;
    private readonly Namespaces _namespaces;

    public MemoryTier(Backplane backplane, Namespaces namespaces, IMeterFactory meters)
    {
        (_backplane, _namespaces) = (backplane, namespaces);
        backplane.Received += message =>
        {
            if (message.Event is BackplaneEvent.Changed && _stores.TryGetValue(message.Cache, out var store))
            {
                store.Changed(message.Id, message.Revision);
            }
        };

        var meter = meters.Create(CacheMetrics.MeterName);
        meter.CreateObservableGauge(
            "cache.entries", () => Measure(store => store.Count), description: "Entries in the memory of this process.");
        meter.CreateObservableCounter(
            "cache.evictions", () => Measure(store => store.Evicted), description: "Entries that left the memory of this process to make room for others.");
    }

    /// <summary>The entry that is kept here and may be served as fresh; <c>null</c> if there is none.</summary>
    public CacheEntry? Find<T>(Cache<T> cache, string id, DateTimeOffset now) where T : class =>
        cache.Settings.InMemory && IsTrusted(cache) ? StoreOf(cache).Find(id, now) : null;

    /// <summary>The entry that is kept of an entity, and until when it may be served; <c>null</c> if none is.</summary>
    public (CacheEntry Entry, DateTimeOffset Until)? Peek(Cache cache, string id) =>
        cache.Settings.InMemory && StoreOf(cache).Peek(id) is { } kept
            ? (kept.Entry, IsTrusted(cache) ? kept.Until : DateTimeOffset.MinValue)
            : null;

    /// <summary>Some of the entities that are kept of a cache, in no order.</summary>
    public IReadOnlyList<string> Sample(Cache cache, int count) => cache.Settings.InMemory ? StoreOf(cache).Sample(count) : [];

    /// <summary>How many entries of a cache take room, those of earlier epochs included.</summary>
    public int Count(Cache cache) => cache.Settings.InMemory ? StoreOf(cache).Held : 0;

    /// <summary>Begins a read: to be called before Redis or the source is asked.</summary>
    /// <param name="epoch">The epoch that the read's keys are made of; <c>null</c> if Redis is away.</param>
    public ReadEpoch Begin(Cache cache, string id, Epoch? epoch) => new(
        epoch ?? _namespaces.Of(cache.Name).Current, cache.Settings.InMemory ? StoreOf(cache).Ticket(id) : 0);

    /// <summary>Keeps an entry that is served, unless something has changed since the read began; an older one is removed.</summary>
    public void Keep(Cache cache, string id, CacheEntry entry, ReadEpoch read, DateTimeOffset now)
    {
        if (!IsTrusted(cache) || !entry.IsFresh(now))
        {
            Changed(cache, id, entry.Revision);
        }
        else if (cache.Settings.InMemory)
        {
            var until = now + cache.Settings.MemoryTtl;
            StoreOf(cache).Keep(id, new(entry, until < entry.FreshUntil ? until : entry.FreshUntil, read.Epoch), read.Ticket);
        }
    }

    /// <summary>This process has written or served this revision: an older one is removed, and readers that hold one don't keep it.</summary>
    public void Changed(Cache cache, string id, Revision revision)
    {
        if (cache.Settings.InMemory)
        {
            StoreOf(cache).Changed(id, revision);
        }
    }

    /// <summary>As <see cref="Changed"/>; and the entry that was written is kept, unless something else has changed since.</summary>
    public void Replace(Cache cache, string id, CacheEntry written, ReadEpoch read, DateTimeOffset now)
    {
        if (cache.Settings.InMemory && StoreOf(cache).Changed(id, written.Revision) == read.Ticket + 1)
        {
            Keep(cache, id, written, read with { Ticket = read.Ticket + 1 }, now);
        }
    }

    private bool IsTrusted(Cache cache) => !cache.RequiresBackplane || _backplane.IsTrusted;

    private IEnumerable<Measurement<long>> Measure(Func<Store, long> value) =>
        _stores.Select(store => new Measurement<long>(value(store.Value), new KeyValuePair<string, object?>("cache", store.Key)));

    private Store StoreOf(Cache cache) => cache.Memory as Store ?? (Store)(cache.Memory = _stores.GetOrAdd(
        cache.Name, static (name, from) => new(from.Settings.MemoryEntries, from.Namespaces.Of(name)), (cache.Settings, Namespaces: _namespaces)));

    private sealed record Kept(CacheEntry Entry, DateTimeOffset Until, Epoch Epoch);

    private sealed class Store
    {
        private readonly ConcurrentLfu<string, Kept> _entries;
        private readonly StrongBox<long>[] _changes = [.. Enumerable.Range(0, Stripes).Select(_ => new StrongBox<long>())];
        private readonly Namespace _namespace;

        private long _evicted;

        public Store(int capacity, Namespace space)
        {
            _namespace = space;
            _entries = new(concurrencyLevel: 1, capacity, new ThreadPoolScheduler(), StringComparer.Ordinal);
            _entries.Events.Value!.ItemUpdated += (_, updated) => updated.OldValue!.Epoch.Removed();
            _entries.Events.Value!.ItemRemoved += (_, removed) =>
            {
                var epoch = removed.Value!.Epoch;
                epoch.Removed();
                if (removed.Reason is ItemRemovedReason.Evicted && epoch == _namespace.Current)
                {
                    Interlocked.Increment(ref _evicted);
                }
            };
        }

        /// <summary>How many entries of the current epoch there are.</summary>
        public long Count => _namespace.Current.Entries;

        public int Held => _entries.Count;

        /// <summary>Not <c>Metrics.Evicted</c> of the library, which counts removed entries, too.</summary>
        public long Evicted => Volatile.Read(ref _evicted);

        public CacheEntry? Find(string id, DateTimeOffset now) =>
            _entries.TryGet(id, out var kept) && kept.Epoch == _namespace.Current && now < kept.Until ? kept.Entry : null;

        public Kept? Peek(string id) => _entries.TryGet(id, out var kept) && kept.Epoch == _namespace.Current ? kept : null;

        public IReadOnlyList<string> Sample(int count)
        {
            var epoch = _namespace.Current;
            var offset = Random.Shared.Next(Math.Max(1, _entries.Count - count));
            return [.. _entries.Skip(offset).Where(entry => entry.Value.Epoch == epoch).Select(entry => entry.Key).Take(count)];
        }

        public long Ticket(string id) => Volatile.Read(ref Stripe(id).Value);

        public void Keep(string id, Kept kept, long ticket)
        {
            var changes = Stripe(id);
            lock (changes)
            {
                var held = Peek(id);
                if (changes.Value == ticket && kept.Epoch == _namespace.Current && !(held?.Entry.Revision > kept.Entry.Revision))
                {
                    kept.Epoch.Added();
                    _entries.AddOrUpdate(id, kept);
                }
                else if (held?.Entry.Revision < kept.Entry.Revision)
                {
                    _entries.TryRemove(id);
                }

                // This revision has been served: readers that hold an older one must not keep it.
                if (held is null || held.Entry.Revision < kept.Entry.Revision)
                {
                    changes.Value++;
                }
            }
        }

        /// <summary>Removes an older entry; returns the ticket that is valid from now on.</summary>
        public long Changed(string id, Revision revision)
        {
            var changes = Stripe(id);
            lock (changes)
            {
                changes.Value++;
                if (_entries.TryGet(id, out var held) && held.Entry.Revision < revision)
                {
                    _entries.TryRemove(id);
                }

                return changes.Value;
            }
        }

        private StrongBox<long> Stripe(string id) => _changes[(uint)id.GetHashCode() % Stripes];
    }
}
