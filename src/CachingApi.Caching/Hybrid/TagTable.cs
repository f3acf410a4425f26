using System.Collections.Concurrent;
using CachingApi.Caching.Hybrid;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>A tag in this process. Entries in memory refer to it, so a hit compares numbers and looks nothing up.</summary>
internal sealed class Tag(string name, long stamp)
{
    private const long Unknown = 0;
    private const long Forgotten = -1;

    private long _stamp = stamp;
    private long _verifiedAt = long.MinValue / 2;

    public string Name => name;

    /// <summary>The stamp; above 0 if it is known.</summary>
    public long Stamp => Volatile.Read(ref _stamp);

    public bool IsKnown => Stamp > Unknown;

    /// <summary>Whether the tag has left the table. The entries that still refer to it are invalid.</summary>
    public bool IsForgotten => Stamp == Forgotten;

    /// <summary>When this process last asked Redis for the stamp, by this machine's clock.</summary>
    public long VerifiedAt => Volatile.Read(ref _verifiedAt);

    /// <summary>Records a stamp that Redis has returned. A later stamp from a message that arrived meanwhile stays.</summary>
    public bool Learn(long stamp, long asked)
    {
        for (var held = Stamp; held != Forgotten; held = Stamp)
        {
            if (stamp <= held || Interlocked.CompareExchange(ref _stamp, stamp, held) == held)
            {
                Volatile.Write(ref _verifiedAt, asked);
                return true;
            }
        }

        return false;
    }

    /// <summary>Records that the tag was removed, and the stamp that it has since.</summary>
    public void Removed(long stamp)
    {
        for (var held = Stamp; held != Forgotten; held = Stamp)
        {
            // A stamp that is not later came out of order, or Redis has lost the last one: only Redis has the one that is in force.
            if (Interlocked.CompareExchange(ref _stamp, stamp > held ? stamp : Forgotten, held) == held)
            {
                return;
            }
        }
    }

    public void Forget() => Interlocked.Exchange(ref _stamp, Forgotten);
}

/// <summary>The stamp that a tag had before an entry's load began.</summary>
internal readonly record struct StampedTag(Tag Tag, long Stamp)
{
    public bool IsCurrent => Tag.Stamp == Stamp;
}

/// <summary>The tags of one cache that this process tracks. The removal of a tag gives it another stamp.</summary>
/// <remarks>
/// Redis holds the stamps, and the backplane announces their changes. A reader must not miss a message:
/// 1. a reader asks Redis for the stamp of a tag, which answers 7;
/// 2. another process removes the tag, which gets stamp 8, and its message arrives;
/// 3. the answer 7 arrives: with it, entries from before step 2 would be valid here.
/// So the tag is in the table before Redis is asked, and the higher stamp stays. If messages may have been lost, all tags are forgotten:
/// an answer that is still on its way then belongs to a tag that is not in the table any more.
/// <para>The table is bounded. A tag is first forgotten, which makes the entries in memory that carry it invalid, and then leaves the
/// table: otherwise a message about it would find nothing to change.</para>
/// <para>If no Redis is configured, the table itself issues stamps.</para>
/// </remarks>
internal sealed class TagTable
{
    /// <summary>For how long a stamp is used without asking Redis while the backplane is not trusted.</summary>
    private const long TrustedFor = 1000;

    private readonly string _cache;
    private readonly int _capacity;
    private readonly RedisTier _redis;
    private readonly Backplane _backplane;
    private readonly ConcurrentDictionary<string, Tag> _tags = new(StringComparer.Ordinal);
    private readonly Lock _trimming = new();
    private int _count;
    private long _lastStamp;

    public TagTable(IOptions<HybridCacheSettings> settings, RedisTier redis, Backplane backplane)
    {
        (_cache, _capacity, _redis, _backplane) = (settings.Value.Name, settings.Value.MemoryTags, redis, backplane);
        backplane.Interrupted += () => Forget(int.MaxValue);
        backplane.Received += message =>
        {
            if (message.Event is BackplaneEvent.TagRemoved && message.Cache == _cache && _tags.TryGetValue(message.Id, out var tag))
            {
                tag.Removed(message.Number);
            }
        };
    }

    public int Count => Volatile.Read(ref _count);

    public Tag Get(string name)
    {
        while (true)
        {
            if (_tags.TryGetValue(name, out var known))
            {
                if (!known.IsForgotten)
                {
                    return known;
                }

                Remove(known);
            }

            var tag = new Tag(name, _redis.IsConfigured ? 0 : Interlocked.Increment(ref _lastStamp));
            if (_tags.TryAdd(name, tag))
            {
                if (Interlocked.Increment(ref _count) > _capacity)
                {
                    Forget(_capacity / 2);
                }

                return tag;
            }
        }
    }

    /// <summary>Whether this process can rely on the stamp: it is known, and no removal can have been missed.</summary>
    public bool IsKnown(Tag tag) =>
        tag.IsKnown && (_backplane.IsTrusted || Environment.TickCount64 - tag.VerifiedAt < TrustedFor);

    /// <summary>Asks Redis for the stamps that are not known. Returns whether all of them are known after that.</summary>
    public ValueTask<bool> LearnAsync(IReadOnlyList<Tag> tags, CancellationToken cancel)
    {
        for (var i = 0; i < tags.Count; i++)
        {
            if (!IsKnown(tags[i]))
            {
                return new(AskAsync(tags.Where(tag => !IsKnown(tag)), cancel));
            }
        }

        return new(true);
    }

    /// <summary>Asks Redis for the stamps of these tags, even if they are known.</summary>
    public async Task<bool> AskAsync(IEnumerable<Tag> tags, CancellationToken cancel) =>
        Array.TrueForAll(await Task.WhenAll(tags.Select(tag => AskAsync(tag, cancel))), learned => learned);

    /// <summary>
    /// Removes a tag: entries that carry it are invalid, those that are being loaded included. Returns <c>false</c> if Redis is away.
    /// </summary>
    public async Task<bool> RemoveAsync(string name, CancellationToken cancel)
    {
        var stamp = _redis.IsConfigured
            ? await _redis.ReplaceStampAsync(_cache, name, cancel)
            : Interlocked.Increment(ref _lastStamp);
        if (stamp is { } given && _tags.TryGetValue(name, out var tag))
        {
            tag.Removed(given);
        }

        return stamp is not null;
    }

    private async Task<bool> AskAsync(Tag tag, CancellationToken cancel)
    {
        var asked = Environment.TickCount64;
        return _redis.IsConfigured
            && await _redis.GetStampAsync(_cache, tag.Name, cancel) is { } stamp
            && tag.Learn(stamp, asked);
    }

    /// <summary>Forgets this many tags, in no particular order.</summary>
    private void Forget(int count)
    {
        lock (_trimming)
        {
            foreach (var (_, tag) in _tags)
            {
                if (count-- == 0)
                {
                    return;
                }

                tag.Forget();
                Remove(tag);
            }
        }
    }

    private void Remove(Tag tag)
    {
        if (_tags.TryRemove(new(tag.Name, tag)))
        {
            Interlocked.Decrement(ref _count);
        }
    }
}
