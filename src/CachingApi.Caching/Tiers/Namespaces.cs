using System.Buffers;
using System.Collections.Concurrent;
using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>
/// A period in which, as this process sees it, a cache was not cleared. A read takes an epoch before its first look-up and uses it to its
/// end; memory serves only entries of the current epoch. So clearing memory is one assignment.
/// </summary>
/// <param name="generation">The generation that keys contain; <c>null</c> if it is not known.</param>
/// <param name="since">When this process first saw the generation.</param>
internal sealed class Epoch(long? generation, Moment since)
{
    private long _entries;

    public long? Generation => generation;

    public Moment Since => since;

    /// <summary>How many entries of this epoch are in memory.</summary>
    public long Entries => Volatile.Read(ref _entries);

    public void Added() => Interlocked.Increment(ref _entries);

    public void Removed() => Interlocked.Decrement(ref _entries);
}

/// <summary>
/// Versioned keys: <c>service:cache:g&lt;generation&gt;:id</c>, built only by this class. A new generation clears a whole cache at once,
/// and no reader sees a fill of the old generation that is still under way.
/// </summary>
/// <remarks>
/// The race that the epoch prevents:
/// 1. a reader takes generation 7 and misses in Redis;
/// 2. another process fills the entry of generation 7;
/// 3. a writer clears the cache: this process moves to generation 8;
/// 4. the reader finds the entry of step 2 under the lease and keeps it in memory. It would be served until its TTL ends.
/// The reader took its epoch at step 1, so memory does not serve the entry that was read under it.
/// </remarks>
internal sealed class Namespaces
{
    /// <summary>For how long a generation is used without asking Redis while the backplane is not trusted.</summary>
    private static readonly TimeSpan TrustedFor = TimeSpan.FromSeconds(1);

    /// <summary>Braces, the escape, and surrogates, which must be in pairs.</summary>
    private static readonly SearchValues<char> Escaped =
        SearchValues.Create(['{', '}', '%', .. Enumerable.Range(0xD800, 0x800).Select(code => (char)code)]);

    private readonly string _prefix;
    private readonly RedisTier _tier;
    private readonly Backplane _backplane;
    private readonly TimeProvider _time;
    private readonly ConcurrentDictionary<string, Namespace> _namespaces = new();

    public Namespaces(RedisConnections redis, RedisTier tier, Backplane backplane, TimeProvider time)
    {
        (_prefix, _tier, _backplane, _time) = (redis.KeyPrefix, tier, backplane, time);
        backplane.Interrupted += Forget;
        backplane.Received += message =>
        {
            if (message.Event is BackplaneEvent.Cleared)
            {
                var moved = Of(message.Cache);
                if (message.Number < moved.Highest)
                {
                    // Another process has begun an earlier generation: Redis has lost the later one, and its clock is behind. The
                    // script then moves the cache on.
                    _ = AskAsync(moved, GenerationChange.None, [], CancellationToken.None);
                    return;
                }

                // A message may arrive late. Redis may then have a later generation, so only an answer of Redis verifies one.
                moved.Learn(message.Number, moved.Interruptions, Namespace.Never);
            }
        };
    }

    /// <summary>The epoch of a cache with its generation; <c>null</c> if Redis is away.</summary>
    public async ValueTask<Epoch?> CurrentAsync(string cache, CancellationToken cancel)
    {
        var space = Of(cache);
        return space.Current is { Generation: not null } epoch
            && (_backplane.IsTrusted || _time.GetElapsedTime(space.VerifiedAt) < TrustedFor)
                ? epoch
                : await AskAsync(space, GenerationChange.None, [], cancel);
    }

    /// <summary>
    /// Whether an epoch has the generation that Redis has returned (<c>null</c>: Redis has none). If not, this process has missed a clear,
    /// and asks for the current epoch.
    /// </summary>
    public async ValueTask<bool> IsCurrentAsync(string cache, Epoch epoch, long? generation, CancellationToken cancel)
    {
        if (epoch.Generation == generation)
        {
            return true;
        }

        await AskAsync(Of(cache), GenerationChange.None, [], cancel);
        return false;
    }

    public Namespace Of(string cache) => _namespaces.GetOrAdd(cache, static name => new(name));

    /// <summary>Moves a cache to a new generation: every entry of it is invalid. Returns <c>false</c> if Redis is away.</summary>
    /// <param name="cause">The write that makes the clear necessary, if there is one: see <see cref="ClearUnlessCausedAsync"/>.</param>
    /// <remarks>Calls that arrive while another is under way share the next one.</remarks>
    public Task<bool> ClearAsync(string cache, Cause? cause)
    {
        var space = Of(cache);
        return space.Clears.RunAsync(cause, async causes =>
        {
            var moved = await AskAsync(space, GenerationChange.Next, [.. causes.OfType<Cause>()], CancellationToken.None) is not null;
            if (!moved)
            {
                space.Renew();
            }

            return moved;
        });
    }

    /// <summary>As <see cref="ClearAsync"/>, unless the writers of all these causes have already cleared the cache.</summary>
    public async Task<bool> ClearUnlessCausedAsync(string cache, IReadOnlyCollection<Cause> causes, CancellationToken cancel) =>
        await AskAsync(Of(cache), GenerationChange.NextUnlessCaused, causes, cancel) is not null;

    /// <summary>
    /// Discards the generations, because messages may have been lost or the server was replaced. That also clears memory.
    /// </summary>
    public void Forget()
    {
        foreach (var space in _namespaces.Values)
        {
            space.Renew();
        }
    }

    /// <exception cref="ArgumentException">The id is not valid Unicode: two of them would be one in Redis.</exception>
    public EntryKey Key(string cache, long generation, string id, ulong shape = 0)
    {
        var escaped = id.AsSpan().ContainsAny(Escaped) ? Escape(id) : id;
        return new($"{_prefix}:{cache}:g{generation}:{escaped}", shape);
    }

    public EntryKey Key(Cache cache, Epoch? epoch, string id) => Key(cache.Name, epoch?.Generation ?? 0, id, cache.Shape);

    /// <summary>
    /// Escapes braces, which would change the slot of the key on a Redis Cluster but not the slot of its lease; and the escape itself.
    /// </summary>
    private static string Escape(string id)
    {
        for (var i = 0; i < id.Length; i++)
        {
            if (char.IsSurrogate(id[i]) && (!char.IsHighSurrogate(id[i]) || i + 1 == id.Length || !char.IsLowSurrogate(id[++i])))
            {
                throw new ArgumentException("An id must be valid Unicode.", nameof(id));
            }
        }

        return id.Replace("%", "%25", StringComparison.Ordinal)
            .Replace("{", "%7B", StringComparison.Ordinal)
            .Replace("}", "%7D", StringComparison.Ordinal);
    }

    private async Task<Epoch?> AskAsync(
        Namespace space, GenerationChange change, IReadOnlyCollection<Cause> causes, CancellationToken cancel)
    {
        var (interruptions, asked) = (space.Interruptions, _time.GetTimestamp());
        return await _tier.GenerationAsync(space.Name, change, space.Highest, causes, cancel) is { } generation
            ? space.Learn(generation, interruptions, asked)
            : null;
    }
}

/// <summary>The write that makes the clear of a dependent cache necessary.</summary>
/// <param name="Id">The entity that was written.</param>
internal readonly record struct Cause(string Id, Revision Revision);

/// <summary>A cache's generation as this process sees it.</summary>
internal sealed class Namespace(string name)
{
    /// <summary>A timestamp long ago.</summary>
    public const long Never = long.MinValue / 2;

    private readonly Lock _lock = new();
    private volatile Epoch _current = new(null, Moment.Now);
    private long _highest;
    private Moment _since;
    private long _verifiedAt = Never;
    private int _interruptions;

    public string Name => name;

    public Epoch Current => _current;

    /// <summary>The highest generation that this process has seen: an earlier one is never used again.</summary>
    public long Highest => Volatile.Read(ref _highest);

    /// <summary>When this process last asked Redis, which then had no later generation.</summary>
    public long VerifiedAt => Volatile.Read(ref _verifiedAt);

    /// <summary>How often messages may have been lost. An answer to a question from before is used only by the reader that asked.</summary>
    public int Interruptions => Volatile.Read(ref _interruptions);

    /// <summary>Calls for a new generation; simultaneous ones are combined.</summary>
    public GroupCommit<Cause?, bool> Clears { get; } = new();

    /// <summary>Records a generation from Redis or from a message; returns the epoch to read with.</summary>
    /// <remarks>
    /// The highest one stays, because answers may arrive out of order:
    /// 1. a reader asks for the generation, Redis answers 7;
    /// 2. a writer moves the cache to 8, and this process takes note of 8;
    /// 3. the reader's 7 arrives: with it, the cleared entries would be served again after the write was acknowledged.
    /// </remarks>
    public Epoch Learn(long generation, int interruptions, long asked)
    {
        lock (_lock)
        {
            if (generation > _highest)
            {
                (_highest, _since) = (generation, Moment.Now);
            }

            if (interruptions != _interruptions)
            {
                // Between the question and now a message with a later generation may have been lost.
                return new(generation, generation == _highest ? _since : Moment.Now);
            }

            if (generation == _highest)
            {
                _verifiedAt = Math.Max(_verifiedAt, asked);
            }

            if (_current.Generation != _highest)
            {
                _current = new(_highest, _since);
            }

            return _current;
        }
    }

    /// <summary>Begins an epoch of unknown generation.</summary>
    public void Renew()
    {
        lock (_lock)
        {
            (_current, _verifiedAt) = (new(null, Moment.Now), Never);
            _interruptions++;
        }
    }
}
