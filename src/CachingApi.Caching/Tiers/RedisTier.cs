using System.Globalization;
using System.IO.Hashing;
using System.Runtime.InteropServices;
using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>Whether Redis answered a read, and the entry.</summary>
/// <param name="Answered"><c>false</c> if Redis is away.</param>
/// <param name="Entry">The entry, if there is a readable one.</param>
internal readonly record struct TierRead(bool Answered, CacheEntry? Entry);

internal enum LeaseState
{
    /// <summary>No lease is needed: the entry is fresh.</summary>
    Fresh = 0,

    /// <summary>The caller has the lease.</summary>
    Granted = 1,

    /// <summary>Another process has the lease.</summary>
    Held = 2,

    /// <summary>A load has just failed, and a stale entry can be served until the next try.</summary>
    BackingOff = 3,

    /// <summary>Redis is away: there are no leases.</summary>
    Unavailable = 4,
}

/// <param name="Floor">The revision of the stored entry, readable or not.</param>
internal readonly record struct LeaseRead(LeaseState State, CacheEntry? Entry, Revision Floor);

internal enum WriteState
{
    Stored = 0,

    /// <summary>Redis has a newer entry, which was left in place.</summary>
    Refused = 1,

    /// <summary>
    /// The value may be older than a later write: a write removed the lease of its load, or the write itself arrived late.
    /// </summary>
    Late = 2,

    /// <summary>Redis is away, so its entry is not known.</summary>
    Unavailable = 3,
}

/// <summary>Whether a call for a cache's generation also changes it.</summary>
internal enum GenerationChange
{
    None,
    Next,

    /// <summary>Begin the next generation, unless each of the causes has already led to one.</summary>
    NextUnlessCaused,
}

/// <param name="Answered"><c>false</c> if Redis is away.</param>
/// <param name="Size">The bytes that are stored, readable or not.</param>
/// <param name="ExpiresIn">The time until Redis removes the entry.</param>
/// <param name="LeaseHeld">Whether a process is loading the entity.</param>
internal readonly record struct TierLook(bool Answered, CacheEntry? Entry, long Size, TimeSpan? ExpiresIn, bool LeaseHeld);

/// <param name="Newer">The stored entry, if it is newer.</param>
/// <param name="Generation">After a write: the cache's generation, read after the commit.</param>
internal readonly record struct TierWrite(WriteState State, CacheEntry? Newer, long? Generation = null);

/// <summary>The second tier: entries in Redis. Each operation is one call: see <see cref="RedisCalls"/>.</summary>
internal sealed partial class RedisTier(
    RedisConnections redis, RedisCalls calls, Backplane backplane, AutoRecoveryQueue queue, Incarnations incarnations, TimeProvider time)
{
    private const int MaxTogether = 256;
    private const int MaxBytesTogether = 1 << 20;
    private const int CauseFields = 1024;

    /// <summary>How long the tokens of a lease are remembered, in milliseconds: longer than any load takes.</summary>
    private static readonly long Remembered = (long)Invalidation.TombstoneTtl.TotalMilliseconds;

    /// <summary>
    /// How long causes are kept: longer than change capture lags behind a writer, so that it does not clear a second time.
    /// </summary>
    private static readonly TimeSpan CausesTtl = TimeSpan.FromMinutes(1);

    private static readonly string ReadOrLease = Lua.Load(typeof(RedisTier), "read_or_lease.lua");
    private static readonly string CompareAndSet = Lua.Load(typeof(RedisTier), "compare_and_set.lua");
    private static readonly string LeaseScript = Lua.Load(typeof(RedisTier), "lease.lua");
    private static readonly string Evict = Lua.Load(typeof(RedisTier), "evict.lua");
    private static readonly string Generation = Lua.Load(typeof(RedisTier), "generation.lua");

    private readonly RedisClock _clock = new();
    private readonly LargeEntries _large = new();
    private Coalescer<string, RedisValue>? _gets;

    /// <summary>Simultaneous look-ups share one <c>MGET</c>; fewer of them share it if entries are large.</summary>
    private Coalescer<string, RedisValue> Gets => _gets ??= new(
        redis.Cache.Multiplexer, () => Math.Clamp(MaxBytesTogether / _large.TypicalBytes, 1, MaxTogether), key => key, GetTogetherAsync);

    /// <summary>
    /// Whether a Redis is configured. Without one, the memory of this process is the only tier, and there is no other process.
    /// </summary>
    public bool IsConfigured => redis.IsConfigured;

    /// <summary>Whether the engine's services have been started. Until then Redis is not used.</summary>
    public bool IsStarted => incarnations.IsStarted;

    /// <summary>Whether every entry that Redis holds may be served.</summary>
    public bool IsTrusted => IsUsable && queue.IsEmpty;

    /// <summary>
    /// Whether the entry of an entity in Redis may be served: Redis answers, and has every invalidation of the entity.
    /// </summary>
    public bool IsTrustedWith(string cache, string id) => IsUsable && !queue.Includes(cache, id);

    /// <summary>Records the time of Redis, in Unix milliseconds: see <see cref="RedisClock"/>.</summary>
    public void ObserveTime(long time) => _clock.Observe(time);

    /// <summary>Why the last call that failed has failed.</summary>
    public string LastFailure => calls.LastFailure;

    /// <summary>Whether Redis answers, by the last calls.</summary>
    public bool IsReachable => calls.IsReachable;

    private bool IsUsable => redis.IsConfigured && calls.IsSettled && incarnations.IsRedisKnown;

    public async Task<TierRead> GetAsync(EntryKey key, CancellationToken cancel)
    {
        var (answered, bytes) = await calls.TryAsync("get", _ => Gets.SendAsync(key.Text), cancel);
        return new(answered, bytes.HasValue ? CacheEntry.Parse(key, bytes) : null);
    }

    /// <summary>Reads an entry and, if it is not fresh beyond <paramref name="freshBeyond"/>, asks for its lease.</summary>
    /// <param name="freshBeyond"><c>null</c> if no stored entry is of use to the reader.</param>
    public async Task<LeaseRead> ReadOrLeaseAsync(
        EntryKey key, string token, TimeSpan duration, DateTimeOffset? freshBeyond, CancellationToken cancel)
    {
        RedisValue[] arguments =
        [
            token,
            (long)duration.TotalMilliseconds,
            (freshBeyond ?? DateTimeOffset.MaxValue).ToUnixTimeMilliseconds(),
            CacheEntry.Mark(key),
            (freshBeyond is null ? DateTimeOffset.MaxValue : time.GetUtcNow()).ToUnixTimeMilliseconds(),
            Remembered,
        ];
        var (answered, result) = await calls.TryAsync(
            "lease", cache => cache.ScriptEvaluateAsync(ReadOrLease, [key.Text, key.Lease], arguments), cancel);
        if (!answered)
        {
            return new(LeaseState.Unavailable, null, default);
        }

        var bytes = (byte[])result![0]!;
        return new((LeaseState)(int)result[1], CacheEntry.Parse(key, bytes), CacheEntry.RevisionOf(key, bytes) ?? default);
    }

    /// <summary>Keeps an entry that was loaded under a lease.</summary>
    /// <param name="replaces">Whether other processes may hold a fresh entry that it replaces: the change is then published.</param>
    public Task<TierWrite> FillAsync(
        string cache,
        string id,
        EntryKey key,
        string token,
        CacheEntry entry,
        TimeSpan timeToLive,
        bool replaces,
        CancellationToken cancel) =>
        CompareAndSetAsync(cache, id, key, token, entry, timeToLive, began: null, publishes: replaces, cancel);

    /// <summary>Sets an entry that was written, removes the lease and publishes the change.</summary>
    /// <param name="began">When the write began, before its commit.</param>
    public Task<TierWrite> WriteAsync(
        string cache, string id, EntryKey key, CacheEntry entry, TimeSpan timeToLive, Moment began, CancellationToken cancel) =>
        CompareAndSetAsync(cache, id, key, "", entry, timeToLive, began, publishes: true, cancel);

    public Task RenewAsync(EntryKey key, string token, TimeSpan duration, CancellationToken cancel) =>
        calls.TryAsync(
            "lease",
            db => db.ScriptEvaluateAsync(LeaseScript, [key.Lease], [token, (long)duration.TotalMilliseconds, Remembered]),
            cancel);

    /// <param name="backOff">For how long no load is begun while a stale entry can be served.</param>
    public Task ReleaseAsync(EntryKey key, string token, string cache, string id, bool filled, TimeSpan backOff, CancellationToken cancel)
    {
        var message = backplane.Message(filled ? BackplaneEvent.Filled : BackplaneEvent.Failed, cache, id, "0");
        RedisValue[] arguments = [token, 0, Remembered, backplane.Channel, message, (long)backOff.TotalMilliseconds];
        return calls.TryAsync("lease", db => db.ScriptEvaluateAsync(LeaseScript, [key.Lease], arguments), cancel);
    }

    /// <summary>The generation of a cache, or a new one, which the script publishes; <c>null</c> if Redis is away.</summary>
    /// <param name="seen">The highest generation that this process has seen.</param>
    public async Task<long?> GenerationAsync(
        string cache, GenerationChange change, long seen, IReadOnlyCollection<Cause> causes, CancellationToken cancel)
    {
        if (!incarnations.IsRedisKnown)
        {
            return null;
        }

        var known = incarnations.Known;
        RedisValue[] arguments =
        [
            change switch { GenerationChange.Next => "next", GenerationChange.NextUnlessCaused => "unless", _ => "current" },
            backplane.Channel,
            backplane.Message(BackplaneEvent.Cleared, cache, "", "%s"),
            seen,
            (long)CausesTtl.TotalMilliseconds,
            known.Count,
            .. known.Select(id => (RedisValue)id),
            .. causes.SelectMany(cause => new RedisValue[]
            {
                (long)(XxHash3.HashToUInt64(MemoryMarshal.AsBytes(cause.Id.AsSpan())) % CauseFields),
                cause.Id,
                cause.Revision.Version,
                cause.Revision.Fence,
            }),
        ];
        var key = GenerationKey(cache);
        RedisKey[] keys = [key, $"{{{key}}}:incarnations:generation", $"{{{key}}}:causes:generation"];
        var (answered, result) = await calls.TryAsync("generation", db => db.ScriptEvaluateAsync(Generation, keys, arguments), cancel);
        if (!answered)
        {
            return null;
        }

        _clock.Observe((long)result![1]);
        return (long)result[0];
    }

    /// <summary>Everything that Redis holds of an entry.</summary>
    public async Task<TierLook> LookAsync(EntryKey key, CancellationToken cancel)
    {
        var (answered, found) = await calls.TryAsync(
            "look",
            async cache =>
            {
                var (bytes, expiry) = (cache.StringGetAsync(key.Text), cache.KeyTimeToLiveAsync(key.Text));
                var lease = cache.StringGetAsync(key.Lease);
                return (Bytes: await bytes, ExpiresIn: await expiry, Held: IsHeld(await lease));
            },
            cancel);
        return new(
            answered, found.Bytes.HasValue ? CacheEntry.Parse(key, found.Bytes) : null, found.Bytes.Length(), found.ExpiresIn, found.Held);
    }

    /// <summary>
    /// Removes an entry, leaves a tombstone for <paramref name="timeToLive"/>, removes the lease and publishes the change.
    /// </summary>
    /// <returns>Whether Redis answered, and the cache's generation, read at the same time.</returns>
    public async Task<(bool Answered, long? Generation)> EvictAsync(
        string cache, string id, EntryKey key, TimeSpan timeToLive, CancellationToken cancel)
    {
        RedisValue[] arguments =
        [
            CacheEntry.Tombstone(key, default, time.GetUtcNow()).Bytes,
            (long)timeToLive.TotalMilliseconds,
            backplane.Channel,
            backplane.Message(BackplaneEvent.Invalidated, cache, id, Backplane.Number(new(long.MaxValue))),
            backplane.Message(BackplaneEvent.Filled, cache, id, "0"),
        ];
        return await calls.TryAsync(
            "evict",
            async db =>
            {
                var (evict, generation) = (db.ScriptEvaluateAsync(Evict, [key.Text, key.Lease], arguments), GetGenerationAsync(db, cache));
                await evict;
                return await generation;
            },
            cancel);
    }

    private async Task<TierWrite> CompareAndSetAsync(
        string cache,
        string id,
        EntryKey key,
        string token,
        CacheEntry entry,
        TimeSpan timeToLive,
        Moment? began,
        bool publishes,
        CancellationToken cancel)
    {
        RedisValue[] arguments =
        [
            entry.Bytes,
            Math.Max(1, (long)timeToLive.TotalMilliseconds),
            token,
            backplane.Channel,
            // An entry without a revision replaces any entry that another process has in memory.
            backplane.Message(
                BackplaneEvent.Invalidated, cache, id, Backplane.Number(entry.Revision == default ? new(long.MaxValue) : entry.Revision)),
            backplane.Message(BackplaneEvent.Filled, cache, id, "0"),
            // Before the first reply with a time it is not known how old a write is. It then counts as a late one.
            began is { } moment ? _clock.TimeOf(moment) ?? 0 : "",
            (long)Invalidation.TombstoneTtl.TotalMilliseconds,
            publishes,
        ];
        var (answered, reply) = await calls.TryAsync(
            "set",
            async db =>
            {
                var set = db.ScriptEvaluateAsync(CompareAndSet, [key.Text, key.Lease], arguments);
                var generation = token == "" ? GetGenerationAsync(db, cache) : Task.FromResult<long?>(null);
                return (Set: await set, Generation: await generation);
            },
            cancel);
        if (!answered)
        {
            return new(WriteState.Unavailable, null);
        }

        var result = reply.Set!;
        _clock.Observe((long)result[0]);
        return new((WriteState)(int)result[1], CacheEntry.Parse(key, (byte[])result[2]!), reply.Generation);
    }

    private async Task<long?> GetGenerationAsync(IDatabase db, string cache) =>
        (await db.StringGetAsync(GenerationKey(cache))).TryParse(out long generation) ? generation : null;

    private string GenerationKey(string cache) => $"{redis.KeyPrefix}:{cache}:generation";

    private bool IsHeld(string? lease) =>
        lease?.Split(' ') is [var until, "-" or "+", ..] && long.Parse(until, CultureInfo.InvariantCulture) > _clock.TimeOf(Moment.Now);

    private async Task<RedisValue[]> GetTogetherAsync(string[] keys)
    {
        // Also for a single key: if a key has another Redis type, MGET reports a miss, but GET fails.
        var values = await redis.Cache.StringGetAsync(Array.ConvertAll(keys, key => (RedisKey)key));
        foreach (var value in values)
        {
            _large.Seen(value.Length());
        }

        return values;
    }

    /// <summary>The current size of entries: the largest of the last few hundred.</summary>
    private sealed class LargeEntries
    {
        private double _bytes = 1;

        public int TypicalBytes => (int)Math.Max(1, Volatile.Read(ref _bytes));

        public void Seen(long bytes) => Volatile.Write(ref _bytes, Math.Max(bytes, Volatile.Read(ref _bytes) * 0.99));
    }
}
