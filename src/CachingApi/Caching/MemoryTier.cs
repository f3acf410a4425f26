using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Runtime.CompilerServices;
using BitFaster.Caching;
using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;

namespace CachingApi.Caching;

/// <summary>
/// The first tier: entries in this process, as bytes, bounded in number by a W-TinyLFU cache (BitFaster). It is trusted only
/// while the backplane is, by which the other processes say what they have changed.
/// </summary>
/// <remarks>
/// A reader may hold an old entry in its hands while the message passes by that it is old:
/// 1. a reader's <c>GET</c> is answered with version 1;
/// 2. another process writes version 2 and its message arrives: there is nothing here to drop;
/// 3. the reader keeps version 1, which nobody would ever drop.
/// So a reader takes a ticket before it asks Redis, and keeps nothing if something has changed under that ticket since.
/// </remarks>
internal sealed class MemoryTier
{
    /// <summary>Things of one stripe disturb each other: of two that are read at the same moment one is not kept.</summary>
    private const int Stripes = 1024;

    private readonly ConcurrentDictionary<string, Store> _stores = new();
    private readonly Backplane _backplane;

    public MemoryTier(Backplane backplane, Namespaces namespaces, IMeterFactory meters)
    {
        _backplane = backplane;
        backplane.Interrupted += () =>
        {
            namespaces.Forget();
            foreach (var store in _stores.Values)
            {
                store.Clear();
            }
        };
        backplane.Received += message =>
        {
            // The generation first: who takes a ticket after the clearing must not read under the old one.
            if (message.Event is BackplaneEvent.Dropped)
            {
                namespaces.Learn(message.Cache, message.Number);
            }

            if (_stores.TryGetValue(message.Cache, out var store))
            {
                store.Apply(message);
            }
        };

        var meter = meters.Create(CacheMetrics.MeterName);
        meter.CreateObservableGauge(
            "cache.entries", () => Measure(store => store.Count), description: "Entries in the memory of this process.");
        meter.CreateObservableCounter(
            "cache.evictions", () => Measure(store => store.Evicted), description: "Entries that had to leave the memory of this process for others.");
    }

    /// <summary>The entry that is kept here and may be served as fresh; <c>null</c> where there is none.</summary>
    public CacheEntry? Find<T>(Cache<T> cache, string id, DateTimeOffset now) where T : class =>
        cache.Settings.InMemory && IsTrusted(cache) ? StoreOf(cache).Find(id, now) : null;

    /// <summary>What is kept of a thing, and until when it may be served; <c>null</c> where nothing is.</summary>
    public (CacheEntry Entry, DateTimeOffset Until)? Peek(Cache cache, string id) =>
        cache.Settings.InMemory && StoreOf(cache).Peek(id) is { } kept
            ? (kept.Entry, IsTrusted(cache) ? kept.Until : DateTimeOffset.MinValue)
            : null;

    /// <summary>What <see cref="Keep"/> wants to see again.</summary>
    public long Ticket<T>(Cache<T> cache, string id) where T : class => cache.Settings.InMemory ? StoreOf(cache).Ticket(id) : 0;

    /// <summary>Keeps an entry that is shown, unless something has changed since the ticket was taken; what is older is dropped.</summary>
    public void Keep<T>(Cache<T> cache, string id, CacheEntry entry, long ticket, DateTimeOffset now) where T : class
    {
        if (!IsTrusted(cache) || !entry.IsFresh(now))
        {
            Changed(cache, id, entry.Version);
        }
        else if (cache.Settings.InMemory)
        {
            var until = now + cache.Settings.MemoryTtl;
            StoreOf(cache).Keep(id, new(entry, until < entry.FreshUntil ? until : entry.FreshUntil), ticket);
        }
    }

    /// <summary>This process has written or shown this version: what is older is dropped, and not kept any more.</summary>
    public void Changed(Cache cache, string id, long version)
    {
        if (cache.Settings.InMemory)
        {
            StoreOf(cache).Changed(id, version);
        }
    }

    /// <summary>As <see cref="Changed"/>; and what was written is kept, unless something else has changed since the ticket was taken.</summary>
    public void Replace<T>(Cache<T> cache, string id, CacheEntry written, long ticket, DateTimeOffset now) where T : class
    {
        if (cache.Settings.InMemory && StoreOf(cache).Changed(id, written.Version) == ticket + 1)
        {
            Keep(cache, id, written, ticket + 1, now);
        }
    }

    public void Drop(Cache cache)
    {
        if (cache.Settings.InMemory)
        {
            StoreOf(cache).Clear();
        }
    }

    private bool IsTrusted(Cache cache) => !cache.IsVoided || _backplane.IsTrusted;

    private IEnumerable<Measurement<long>> Measure(Func<Store, long> value) =>
        _stores.Select(store => new Measurement<long>(value(store.Value), new KeyValuePair<string, object?>("cache", store.Key)));

    private Store StoreOf(Cache cache) =>
        cache.Memory as Store ?? (Store)(cache.Memory = _stores.GetOrAdd(cache.Name, static (_, settings) => new(settings.MemoryEntries), cache.Settings));

    private sealed record Kept(CacheEntry Entry, DateTimeOffset Until);

    private sealed class Store
    {
        private readonly ConcurrentLfu<string, Kept> _entries;
        private readonly StrongBox<long>[] _changes = [.. Enumerable.Range(0, Stripes).Select(_ => new StrongBox<long>())];

        private long _evicted;

        public Store(int capacity)
        {
            _entries = new(concurrencyLevel: 1, capacity, new ThreadPoolScheduler(), StringComparer.Ordinal);
            _entries.Events.Value!.ItemRemoved += (_, removed) =>
            {
                if (removed.Reason is ItemRemovedReason.Evicted)
                {
                    Interlocked.Increment(ref _evicted);
                }
            };
        }

        public long Count => _entries.Count;

        /// <summary>Not <c>Metrics.Evicted</c> of the library: that counts what was dropped, too.</summary>
        public long Evicted => Volatile.Read(ref _evicted);

        public void Apply(BackplaneMessage message)
        {
            if (message.Event is BackplaneEvent.Dropped)
            {
                Clear();
            }
            else
            {
                Changed(message.Id, message.Number);
            }
        }

        public CacheEntry? Find(string id, DateTimeOffset now) =>
            _entries.TryGet(id, out var kept) && now < kept.Until ? kept.Entry : null;

        public Kept? Peek(string id) => _entries.TryGet(id, out var kept) ? kept : null;

        public long Ticket(string id) => Volatile.Read(ref Stripe(id).Value);

        public void Keep(string id, Kept kept, long ticket)
        {
            var changes = Stripe(id);
            lock (changes)
            {
                var lead = _entries.TryGet(id, out var held) ? kept.Entry.Version - held.Entry.Version : 1;
                if (changes.Value == ticket && lead >= 0)
                {
                    _entries.AddOrUpdate(id, kept);
                }
                else if (lead > 0)
                {
                    _entries.TryRemove(id);
                }

                // This version has been shown: who holds an older one in hands does not keep it any more.
                if (lead > 0)
                {
                    changes.Value++;
                }
            }
        }

        /// <summary>Drops what is older; returns the ticket that is valid from now on.</summary>
        public long Changed(string id, long version)
        {
            var changes = Stripe(id);
            lock (changes)
            {
                changes.Value++;
                if (_entries.TryGet(id, out var held) && held.Entry.Version < version)
                {
                    _entries.TryRemove(id);
                }

                return changes.Value;
            }
        }

        public void Clear()
        {
            foreach (var changes in _changes)
            {
                lock (changes)
                {
                    changes.Value++;
                }
            }

            _entries.Clear();
        }

        private StrongBox<long> Stripe(string id) => _changes[(uint)id.GetHashCode() % Stripes];
    }
}
