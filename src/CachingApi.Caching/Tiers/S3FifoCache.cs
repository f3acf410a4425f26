using System.Numerics;

namespace CachingApi.Caching;

/// <summary>
/// A map with a bounded number of entries and the eviction policy S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction",
/// SOSP 2023). All members are thread-safe.
/// </summary>
/// <remarks>
/// New entries go to a small queue. An entry that is read there moves to the main queue when it becomes the oldest; the others
/// are evicted, so a scan does not displace popular entries. A ghost table holds the hashes of evicted keys: an entry that returns soon
/// goes to the main queue at once. In the main queue, an entry that was read since its last turn gets another turn.
/// <para>A hit writes at most two bits of its node and takes no lock. W-TinyLFU has hit ratios within one percentage point of these, but
/// reorders its lists after each read. If they do not fit into the processor's caches, that takes several times as long as the look-up
/// (docs/benchmarks.md).</para>
/// <para>Beyond the processor's caches, a hit takes as long as the memory that it reads one after the other: a place of the table, a node,
/// and the node's key. So the nodes themselves are the chains of the table; a dictionary would add nodes of its own
/// in between. A reader without the lock may meet a change: each one is the write of a single reference,
/// and a node that has left a chain still leads to the rest of it.</para>
/// </remarks>
/// <param name="capacity">The maximum number of entries.</param>
/// <param name="removed">
/// Called for each value that leaves the map, with <c>true</c> if it was evicted. It is called inside the lock and must be short.
/// </param>
internal sealed class S3FifoCache<T>(int capacity, Action<T, bool> removed) where T : struct
{
    private const byte MaxReads = 3;

    /// <summary>
    /// One entry out of this many is in the small queue: half of the paper's share, because it has better hit ratios on Zipf traces.
    /// </summary>
    private const int SmallShare = 20;

    /// <summary>
    /// After this many entries of the main queue got another turn, the next one is evicted even if it was read, to bound the time.
    /// </summary>
    private const int MaxTurns = 64;

    private readonly int _smallCapacity = Math.Max(1, capacity / SmallShare);
    private readonly Node?[] _table = new Node?[BitOperations.RoundUpToPowerOf2((uint)capacity)];
    private readonly int[] _ghosts = new int[capacity];
    private readonly Lock _lock = new();
    private readonly Queue _small = new();
    private readonly Queue _main = new();

    public int Count => _small.Count + _main.Count;

    /// <summary>The entries, in no particular order. Entries that are added or removed meanwhile may be left out.</summary>
    public IEnumerable<(string Key, T Value)> Entries
    {
        get
        {
            foreach (var first in _table)
            {
                for (var node = first; node is not null; node = node.Next)
                {
                    yield return (node.Key, node.Value);
                }
            }
        }
    }

    /// <summary>Looks an entry up, which counts as a read.</summary>
    public bool TryGet(string key, out T value)
    {
        var hash = key.GetHashCode();
        var node = Volatile.Read(ref Chain(hash));
        while (node is not null && (node.Hash != hash || node.Key != key))
        {
            node = node.Next;
        }

        if (node is null)
        {
            value = default;
            return false;
        }

        // Not atomic: of two simultaneous reads, one may not count.
        if (node.Reads < MaxReads)
        {
            node.Reads++;
        }

        value = node.Value;
        return true;
    }

    public void Set(string key, T value)
    {
        var hash = key.GetHashCode();
        lock (_lock)
        {
            ref var place = ref Find(hash, key);
            if (place is { } held)
            {
                // A node's value never changes, so that no reader sees a torn value.
                var next = new Node(key, hash, value) { Reads = held.Reads, Next = held.Next };
                held.Queue!.Replace(held, next);
                Volatile.Write(ref place, next);
                removed(held.Value, false);
                return;
            }

            // Before the eviction, which may put another key into the same place of the ghost table.
            var queue = IsGhost(hash) ? _main : _small;
            while (Count >= capacity)
            {
                Evict();
            }

            ref var chain = ref Chain(hash);
            var node = new Node(key, hash, value) { Next = chain };
            queue.Add(node);
            Volatile.Write(ref chain, node);
        }
    }

    public void Remove(string key)
    {
        lock (_lock)
        {
            ref var place = ref Find(key.GetHashCode(), key);
            if (place is { } held)
            {
                Volatile.Write(ref place, held.Next);
                held.Queue!.Remove(held);
                removed(held.Value, false);
            }
        }
    }

    private void Evict()
    {
        if (_small.Count > _smallCapacity || _main.Count == 0)
        {
            EvictFromSmall();
        }
        else
        {
            EvictFromMain();
        }
    }

    private void EvictFromSmall()
    {
        var oldest = _small.Oldest!;
        if (oldest.Reads > 0)
        {
            _small.Remove(oldest);
            oldest.Reads = 0;
            _main.Add(oldest);
            return;
        }

        _ghosts[Ghost(oldest.Hash)] = oldest.Hash;
        Evict(oldest);
    }

    private void EvictFromMain()
    {
        for (var turn = 0; turn < MaxTurns && _main.Oldest!.Reads > 0; turn++)
        {
            var oldest = _main.Oldest;
            oldest.Reads--;
            _main.Remove(oldest);
            _main.Add(oldest);
        }

        Evict(_main.Oldest!);
    }

    private void Evict(Node node)
    {
        node.Queue!.Remove(node);
        Volatile.Write(ref Find(node.Hash, node.Key), node.Next);
        removed(node.Value, true);
    }

    private bool IsGhost(int hash)
    {
        ref var ghost = ref _ghosts[Ghost(hash)];
        if (ghost != hash)
        {
            return false;
        }

        ghost = 0;
        return true;
    }

    private uint Ghost(int hash) => (uint)hash % (uint)_ghosts.Length;

    private ref Node? Chain(int hash) => ref _table[hash & (_table.Length - 1)];

    /// <summary>The reference to a key's node, or the one at the end of its chain. Needs the lock.</summary>
    private ref Node? Find(int hash, string key)
    {
        ref var place = ref Chain(hash);
        while (place is not null && (place.Hash != hash || place.Key != key))
        {
            place = ref place.Next;
        }

        return ref place;
    }

    private sealed class Node(string key, int hash, T value)
    {
        /// <summary>A copy, so that it is beside the node in memory.</summary>
        public string Key { get; } = new(key.AsSpan());

        public int Hash => hash;

        public T Value => value;

        /// <summary>The next node of the same place in the table.</summary>
        public Node? Next;

        /// <summary>How often it was read since its last turn, up to <see cref="MaxReads"/>.</summary>
        public byte Reads;

        public Queue? Queue;
        public Node? Older;
        public Node? Newer;
    }

    private sealed class Queue
    {
        private Node? _newest;

        public Node? Oldest { get; private set; }

        public int Count { get; private set; }

        public void Add(Node node)
        {
            (node.Queue, node.Older, node.Newer) = (this, _newest, null);
            if (_newest is null)
            {
                Oldest = node;
            }
            else
            {
                _newest.Newer = node;
            }

            _newest = node;
            Count++;
        }

        public void Remove(Node node)
        {
            Link(node.Older, node.Newer);
            Count--;
        }

        public void Replace(Node node, Node by)
        {
            (by.Queue, by.Older, by.Newer) = (this, node.Older, node.Newer);
            Link(by.Older, by);
            Link(by, by.Newer);
        }

        private void Link(Node? older, Node? newer)
        {
            if (older is null)
            {
                Oldest = newer;
            }
            else
            {
                older.Newer = newer;
            }

            if (newer is null)
            {
                _newest = older;
            }
            else
            {
                newer.Older = older;
            }
        }
    }
}
