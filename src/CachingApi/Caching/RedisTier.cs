using CachingApi.Storage;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>Whether Redis answered a read, and what.</summary>
/// <param name="Answered"><c>false</c> where Redis is away.</param>
/// <param name="Entry">The entry, where there is a readable one.</param>
internal readonly record struct TierRead(bool Answered, CacheEntry? Entry);

internal enum LeaseState
{
    /// <summary>None is needed: the entry is fresh.</summary>
    Fresh = 0,

    /// <summary>The lease is the asker's.</summary>
    Granted = 1,

    /// <summary>Another process holds it.</summary>
    Held = 2,

    /// <summary>Redis is away: there are no leases.</summary>
    Unavailable = 3,
}

internal readonly record struct LeaseRead(LeaseState State, CacheEntry? Entry);

internal enum WriteState
{
    Stored = 0,

    /// <summary>A newer entry is held and was left in place.</summary>
    Refused = 1,

    /// <summary>The lease was broken by a write, or has ended: what was loaded under it may be old.</summary>
    LeaseLost = 2,

    /// <summary>Redis is away: nobody knows what it holds.</summary>
    Unavailable = 3,
}

/// <param name="Answered"><c>false</c> where Redis is away.</param>
/// <param name="Size">What is stored, in bytes, readable or not.</param>
/// <param name="ExpiresIn">In what time Redis drops it.</param>
/// <param name="LeaseHeld">Whether somebody is loading it.</param>
internal readonly record struct TierLook(bool Answered, CacheEntry? Entry, long Size, TimeSpan? ExpiresIn, bool LeaseHeld);

/// <param name="Newer">The entry that is held, where it is newer.</param>
internal readonly record struct TierWrite(WriteState State, CacheEntry? Newer);

/// <summary>The second tier: entries in Redis. Every operation ends within the deadline, and an outage is an answer, not an exception.</summary>
internal sealed partial class RedisTier(
    Redis redis,
    Backplane backplane,
    CircuitBreaker circuit,
    OwedInvalidations owed,
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<RedisTier> log)
{
    private const int MaxTogether = 256;

    private static readonly string ReadOrLease = Lua.Load("read_or_lease.lua");
    private static readonly string CompareAndSet = Lua.Load("compare_and_set.lua");
    private static readonly string LeaseScript = Lua.Load("lease.lua");
    private static readonly string Evict = Lua.Load("evict.lua");
    private static readonly string Generation = Lua.Load("generation.lua");

    private readonly TimeSpan _deadline = options.Value.RedisDeadline;

    /// <summary>Look-ups of the same time ride as one <c>MGET</c>.</summary>
    private readonly Coalescer<string, RedisValue> _gets = new(redis.Cache.Multiplexer, MaxTogether, key => key, async keys => keys.Length == 1
        ? [await redis.Cache.StringGetAsync(keys[0])]
        : await redis.Cache.StringGetAsync(Array.ConvertAll(keys, key => (RedisKey)key)));

    /// <summary>Whether all that Redis holds may be served.</summary>
    public bool IsTrusted => !circuit.IsOpen && !circuit.IsSettling && owed.IsEmpty;

    /// <summary>
    /// Whether what Redis holds for a thing may be served: not while Redis fails to answer, nor before it has heard of what
    /// happened to the thing meanwhile.
    /// </summary>
    public bool IsTrustedWith(string cache, string id) => !circuit.IsOpen && !circuit.IsSettling && !owed.Includes(cache, id);

    public async Task<TierRead> GetAsync(EntryKey key, CancellationToken cancel)
    {
        var (answered, bytes) = await TryAsync("get", _ => _gets.SendAsync(key.Text), cancel);
        return new(answered, bytes.HasValue ? CacheEntry.Parse(key, bytes) : null);
    }

    /// <summary>Reads an entry and, where it is not fresh beyond <paramref name="freshBeyond"/>, asks for its lease.</summary>
    public async Task<LeaseRead> ReadOrLeaseAsync(EntryKey key, string token, TimeSpan duration, DateTimeOffset freshBeyond, CancellationToken cancel)
    {
        RedisValue[] arguments = [token, (long)duration.TotalMilliseconds, freshBeyond.ToUnixTimeMilliseconds(), CacheEntry.Mark(key)];
        var (answered, result) = await TryAsync(
            "lease", cache => cache.ScriptEvaluateAsync(ReadOrLease, [key.Text, key.Lease], arguments), cancel);
        return answered
            ? new((LeaseState)(int)result![1], CacheEntry.Parse(key, (byte[])result[0]!))
            : new(LeaseState.Unavailable, null);
    }

    /// <summary>Keeps what was loaded under a lease.</summary>
    public Task<TierWrite> FillAsync(string cache, string id, EntryKey key, string token, CacheEntry entry, TimeSpan timeToLive, CancellationToken cancel) =>
        CompareAndSetAsync(cache, id, key, token, entry, timeToLive, cancel);

    /// <summary>Sets what was written, breaks the lease and tells the other processes.</summary>
    public Task<TierWrite> WriteAsync(string cache, string id, EntryKey key, CacheEntry entry, TimeSpan timeToLive, CancellationToken cancel) =>
        CompareAndSetAsync(cache, id, key, "", entry, timeToLive, cancel);

    public Task RenewAsync(EntryKey key, string token, TimeSpan duration, CancellationToken cancel) =>
        TryAsync("lease", cache => cache.ScriptEvaluateAsync(LeaseScript, [key.Lease], [token, (long)duration.TotalMilliseconds, "", ""]), cancel);

    public Task GiveBackAsync(EntryKey key, string token, string cache, string id, bool filled, CancellationToken cancel)
    {
        var message = backplane.Message(filled ? BackplaneEvent.Filled : BackplaneEvent.Failed, cache, id, "0");
        return TryAsync("lease", db => db.ScriptEvaluateAsync(LeaseScript, [key.Lease], [token, 0, backplane.Channel, message]), cancel);
    }

    /// <summary>The generation of a cache, or its next one, of which the other processes are told; <c>null</c> where Redis is away.</summary>
    public async Task<long?> GenerationAsync(string cache, bool next, CancellationToken cancel)
    {
        RedisValue[] arguments = [next ? "next" : "current", backplane.Channel, backplane.Message(BackplaneEvent.Dropped, cache, "", "%s")];
        var (answered, generation) = await TryAsync(
            "generation", db => db.ScriptEvaluateAsync(Generation, [$"{redis.KeyPrefix}:{cache}:generation"], arguments), cancel);
        return answered ? (long)generation! : null;
    }

    /// <summary>All that Redis knows of an entry.</summary>
    public async Task<TierLook> LookAsync(EntryKey key, CancellationToken cancel)
    {
        var (answered, found) = await TryAsync(
            "look",
            async cache =>
            {
                var (bytes, expiry, lease) = (cache.StringGetAsync(key.Text), cache.KeyTimeToLiveAsync(key.Text), cache.KeyExistsAsync(key.Lease));
                return (Bytes: await bytes, ExpiresIn: await expiry, Held: await lease);
            },
            cancel);
        return new(answered, found.Bytes.HasValue ? CacheEntry.Parse(key, found.Bytes) : null, found.Bytes.Length(), found.ExpiresIn, found.Held);
    }

    /// <summary>
    /// Takes an entry out, keeps what it keeps out for <paramref name="timeToLive"/>, breaks the lease and tells the other processes.
    /// Returns <c>false</c> where Redis is away.
    /// </summary>
    public async Task<bool> EvictAsync(string cache, string id, EntryKey key, TimeSpan timeToLive, CancellationToken cancel)
    {
        RedisValue[] arguments =
        [
            CacheEntry.Tombstone(key, 0, time.GetUtcNow()).Bytes,
            (long)timeToLive.TotalMilliseconds,
            backplane.Channel,
            backplane.Message(BackplaneEvent.Changed, cache, id, $"{long.MaxValue}"),
            backplane.Message(BackplaneEvent.Filled, cache, id, "0"),
        ];
        return (await TryAsync("evict", db => db.ScriptEvaluateAsync(Evict, [key.Text, key.Lease], arguments), cancel)).Answered;
    }

    public async Task<bool> PingAsync(CancellationToken cancel)
    {
        try
        {
            await redis.Cache.PingAsync().WaitAsync(_deadline, cancel);
            return true;
        }
        catch (Exception error) when (Redis.IsOutage(error))
        {
            return false;
        }
    }

    private async Task<TierWrite> CompareAndSetAsync(
        string cache, string id, EntryKey key, string token, CacheEntry entry, TimeSpan timeToLive, CancellationToken cancel)
    {
        RedisValue[] arguments =
        [
            entry.Bytes,
            Math.Max(1, (long)timeToLive.TotalMilliseconds),
            token,
            backplane.Channel,
            backplane.Message(BackplaneEvent.Changed, cache, id, $"{entry.Version}"),
            backplane.Message(BackplaneEvent.Filled, cache, id, "0"),
        ];
        var (answered, result) = await TryAsync("set", db => db.ScriptEvaluateAsync(CompareAndSet, [key.Text, key.Lease], arguments), cancel);
        return answered
            ? new((WriteState)(int)result![0], CacheEntry.Parse(key, (byte[])result[1]!))
            : new(WriteState.Unavailable, null);
    }

    private async Task<(bool Answered, T? Value)> TryAsync<T>(string operation, Func<IDatabase, Task<T>> command, CancellationToken cancel)
    {
        if (circuit.IsOpen)
        {
            return default;
        }

        var start = time.GetTimestamp();
        using var span = Traces.StartRedis(operation);
        try
        {
            var value = await command(redis.Cache).WaitAsync(_deadline, cancel);
            circuit.Succeeded();
            return (true, value);
        }
        catch (Exception error) when (Redis.IsOutage(error))
        {
            circuit.Failed();
            span.Failed(error);
            Log.Failed(log, operation, error.GetType().Name);
            return default;
        }
        finally
        {
            metrics.Operation("redis", operation, time.GetElapsedTime(start));
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Debug, "Redis did not answer {Operation}: {Reason}")]
        public static partial void Failed(ILogger log, string operation, string reason);
    }
}
