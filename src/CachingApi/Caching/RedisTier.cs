using CachingApi.Storage;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>Whether Redis answered a read, and what.</summary>
/// <param name="Answered"><c>false</c> where Redis is away, or must not be trusted yet.</param>
/// <param name="Entry">The entry, where there is a readable one.</param>
internal readonly record struct TierRead(bool Answered, CacheEntry? Entry);

/// <summary>What became of a compare-and-set.</summary>
/// <param name="Answered"><c>false</c> where Redis is away: nobody knows what it holds.</param>
/// <param name="Newer">The newer entry that is held and was left in place.</param>
internal readonly record struct TierWrite(bool Answered, CacheEntry? Newer)
{
    public bool Stored => Answered && Newer is null;
}

/// <summary>The second tier: entries in Redis. Every operation ends within the deadline, and an outage is an answer, not an exception.</summary>
internal sealed partial class RedisTier(
    Redis redis,
    CircuitBreaker circuit,
    OwedInvalidations owed,
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<RedisTier> log)
{
    private static readonly string CompareAndSet = Lua.Load("compare_and_set.lua");
    private static readonly string Generation = Lua.Load("generation.lua");

    private readonly TimeSpan _deadline = options.Value.RedisDeadline;

    /// <summary>
    /// Whether what Redis holds may be served: not while it fails to answer, and not before it has heard of every write
    /// that was made meanwhile.
    /// </summary>
    public bool IsTrusted => !circuit.IsOpen && owed.IsEmpty;

    public async Task<TierRead> GetAsync(EntryKey key, CancellationToken cancel)
    {
        if (!IsTrusted)
        {
            return default;
        }

        var (answered, bytes) = await TryAsync("get", cache => cache.StringGetAsync(key.Text), cancel);
        return new(answered, bytes.HasValue ? CacheEntry.Parse(key, bytes) : null);
    }

    /// <summary>Sets an entry unless a newer one is held.</summary>
    public async Task<TierWrite> CompareAndSetAsync(EntryKey key, CacheEntry entry, TimeSpan timeToLive, CancellationToken cancel)
    {
        var milliseconds = Math.Max(1, (long)timeToLive.TotalMilliseconds);
        var (answered, held) = await TryAsync(
            "set", cache => cache.ScriptEvaluateAsync(CompareAndSet, [key.Text], [entry.Bytes, milliseconds]), cancel);
        return new(answered, answered && !held!.IsNull ? CacheEntry.Parse(key, (byte[])held!) : null);
    }

    /// <summary>The generation of a namespace, or its next one; <c>null</c> where Redis is away.</summary>
    public async Task<long?> GenerationAsync(string key, bool next, CancellationToken cancel)
    {
        var (answered, generation) = await TryAsync(
            "generation", cache => cache.ScriptEvaluateAsync(Generation, [key], [next ? "next" : "current"]), cancel);
        return answered ? (long)generation! : null;
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

    private async Task<(bool Answered, T? Value)> TryAsync<T>(string operation, Func<IDatabase, Task<T>> command, CancellationToken cancel)
    {
        if (circuit.IsOpen)
        {
            return default;
        }

        var start = time.GetTimestamp();
        try
        {
            var value = await command(redis.Cache).WaitAsync(_deadline, cancel);
            circuit.Succeeded();
            return (true, value);
        }
        catch (Exception error) when (Redis.IsOutage(error))
        {
            circuit.Failed();
            Log.Failed(log, operation, error.GetType().Name);
            return default;
        }
        finally
        {
            metrics.Operation(operation, time.GetElapsedTime(start));
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Debug, "Redis did not answer {Operation}: {Reason}")]
        public static partial void Failed(ILogger log, string operation, string reason);
    }
}
