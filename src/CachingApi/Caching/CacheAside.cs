using System.Threading.RateLimiting;
using CachingApi.Storage;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// Cache-aside: read the cache, memory first, then Redis; where neither has a fresh entry, load from the source, once however
/// many ask in however many processes, and keep that.
/// </summary>
internal sealed partial class CacheAside(
    MemoryTier memory,
    RedisTier redis,
    Namespaces namespaces,
    Leases leases,
    SingleFlight<CacheResult> flights,
    EarlyRefresh earlyRefresh,
    OwedInvalidations owed,
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<CacheAside> log) : IDisposable
{
    private const int MaxAttempts = 3;

    /// <summary>Without Redis there are no leases and nothing is kept: the source is asked by so many at once, and no more.</summary>
    private readonly ConcurrencyLimiter _bypass = new(new() { PermitLimit = 32, QueueLimit = 256, QueueProcessingOrder = QueueProcessingOrder.OldestFirst });

    /// <summary>The cached thing, loaded where need be; <c>null</c> from <paramref name="load"/> means that there is no such thing.</summary>
    /// <exception cref="Exception">What <paramref name="load"/> threw, where not even a stale entry is kept.</exception>
    /// <exception cref="UnavailableException">Redis is away and too many ask the source already.</exception>
    public ValueTask<CacheResult> GetAsync<T>(CacheKey<T> key, Func<CancellationToken, Task<T?>> load, CancellationToken cancel)
        where T : class
    {
        var now = time.GetUtcNow();
        if (Find(key, now) is not { } held)
        {
            return new(ReadAsync(key, load, cancel));
        }

        metrics.Request(key.Cache.Name, "memory", ResultOf(held));
        RefreshIfDue(key, held, load, now);
        return new(new CacheResult(held, CacheOutcome.MemoryHit));
    }

    public void Dispose() => _bypass.Dispose();

    private CacheEntry? Find<T>(CacheKey<T> key, DateTimeOffset now) where T : class
    {
        if (!key.Cache.Settings.InMemory || !CacheMetrics.IsTimed())
        {
            return memory.Find(key.Cache, key.Id, now);
        }

        var start = time.GetTimestamp();
        var held = memory.Find(key.Cache, key.Id, now);
        metrics.Operation("memory", "get", time.GetElapsedTime(start));
        return held;
    }

    private async Task<CacheResult> ReadAsync<T>(CacheKey<T> key, Func<CancellationToken, Task<T?>> load, CancellationToken cancel)
        where T : class
    {
        var cache = key.Cache;
        using var span = Traces.Start("cache read")?.SetTag("cache", cache.Name);
        var ticket = memory.Ticket(cache, key.Id);
        var generation = redis.IsTrustedWith(cache.Name, key.Id) ? await namespaces.CurrentAsync(cache.Name, cancel) : null;
        var entryKey = namespaces.Key(cache.Name, generation ?? 0, key.Id);
        var read = generation is null ? default : await redis.GetAsync(entryKey, cancel);

        var now = time.GetUtcNow();
        if (cache.Settings.InMemory)
        {
            metrics.Request(cache.Name, "memory", "miss");
        }

        if (read.Entry is { } held && held.IsFresh(now))
        {
            memory.Keep(cache, key.Id, held, ticket, now);
            metrics.Request(cache.Name, "redis", ResultOf(held));
            RefreshIfDue(key, held, load, now);
            return new(held, CacheOutcome.RedisHit);
        }

        var stale = read.Entry?.IsUsable(now) == true ? read.Entry : null;
        var flight = FlyAsync(key, generation, read.Answered, stale is not null, now, load, cancel);
        try
        {
            var result = await (stale is null ? flight : flight.WaitAsync(options.Value.SoftTimeout, cancel));
            metrics.Request(cache.Name, "redis", read.Answered ? "miss" : "error");
            return result;
        }
        catch (Exception error) when (stale is not null && !cancel.IsCancellationRequested)
        {
            metrics.Request(cache.Name, "redis", "stale");
            var slow = error is TimeoutException && !flight.IsCompleted;
            return new(stale, slow ? CacheOutcome.StaleWhileRevalidate : CacheOutcome.StaleIfError);
        }
    }

    private async Task<CacheResult> FlyAsync<T>(
        CacheKey<T> key,
        long? generation,
        bool redisAnswers,
        bool hadStale,
        DateTimeOffset freshBeyond,
        Func<CancellationToken, Task<T?>> load,
        CancellationToken cancel)
        where T : class
    {
        var (result, joined) = await flights.RunAsync(
            $"{key.Cache.Name}:{key.Id}",
            generation ?? 0,
            stop => redisAnswers
                ? LoadUnderLeaseAsync(key, namespaces.Key(key.Cache.Name, generation ?? 0, key.Id), hadStale, freshBeyond, load, stop)
                : LoadWithoutRedisAsync(key, load, stop),
            cancel);
        if (joined)
        {
            metrics.Coalesced(key.Cache.Name);
        }

        return result with { Collapsed = joined };
    }

    /// <summary>What the one caller of a flight does.</summary>
    private async Task<CacheResult> LoadUnderLeaseAsync<T>(
        CacheKey<T> key,
        EntryKey entryKey,
        bool hadStale,
        DateTimeOffset freshBeyond,
        Func<CancellationToken, Task<T?>> load,
        CancellationToken stop)
        where T : class
    {
        for (var attempt = 1; ; attempt++)
        {
            var ticket = memory.Ticket(key.Cache, key.Id);

            // With the lease comes the double check: another flight, here or elsewhere, may have landed since the look-up.
            await using var lease = await leases.TakeAsync(key.Cache.Name, key.Id, entryKey, freshBeyond, stop);
            if (lease.Read.State is LeaseState.Unavailable)
            {
                return await LoadWithoutRedisAsync(key, load, stop);
            }

            if (!lease.Granted && lease.Read.Entry is { } found)
            {
                memory.Keep(key.Cache, key.Id, found, ticket, time.GetUtcNow());
                return new(found, CacheOutcome.RedisHit);
            }

            // A load that began after this version was seen is at least as new: that orders "not found", which has no version of its own.
            var floor = lease.Read.Entry?.Version ?? 0;
            var entry = await LoadOnceAsync(key, entryKey, floor, load, stop);
            lease.Loaded = true;

            var now = time.GetUtcNow();
            var write = await redis.FillAsync(key.Cache.Name, key.Id, entryKey, lease.Token, entry, entry.UsableUntil - now, stop);
            if (write.State is WriteState.Stored)
            {
                lease.Ended = true;
                memory.Keep(key.Cache, key.Id, entry, ticket, now);
                return new(entry, hadStale ? CacheOutcome.Refreshed : CacheOutcome.Miss, Stored: true);
            }

            if (write.State is WriteState.Unavailable)
            {
                return new(Shown(key, entry), CacheOutcome.Miss);
            }

            metrics.RefusedFill(key.Cache.Name);
            if (write.Newer is { } newer && newer.IsFresh(now))
            {
                return new(Shown(key, newer), CacheOutcome.RedisHit);
            }

            // What was loaded may be older than a write that has been acknowledged since: load again.
            if (attempt == MaxAttempts)
            {
                return new(Shown(key, entry), CacheOutcome.Miss);
            }
        }
    }

    private async Task<CacheResult> LoadWithoutRedisAsync<T>(CacheKey<T> key, Func<CancellationToken, Task<T?>> load, CancellationToken stop)
        where T : class
    {
        using var permit = await _bypass.AcquireAsync(1, stop);
        if (!permit.IsAcquired)
        {
            throw new UnavailableException("Redis is away, and the source");
        }

        // What was read here must not be followed by what Redis held before, once it is back.
        var ticket = memory.Ticket(key.Cache, key.Id);
        var entry = await LoadOnceAsync(key, namespaces.Key(key.Cache.Name, 0, key.Id), 0, load, stop);
        if (entry.Version > 0)
        {
            owed.Add(key.Cache.Name, key.Id, entry.Version, written: false);
        }

        if (!key.Cache.IsVoided)
        {
            memory.Keep(key.Cache, key.Id, entry, ticket, time.GetUtcNow());
            return new(entry, CacheOutcome.Bypass);
        }

        return new(Shown(key, entry), CacheOutcome.Bypass);
    }

    /// <summary>An entry that is shown and not kept: memory must not go on with an older one.</summary>
    private CacheEntry Shown<T>(CacheKey<T> key, CacheEntry entry) where T : class
    {
        memory.Changed(key.Cache, key.Id, entry.Version);
        return entry;
    }

    private async Task<CacheEntry> LoadOnceAsync<T>(
        CacheKey<T> key, EntryKey entryKey, long floor, Func<CancellationToken, Task<T?>> load, CancellationToken stop)
        where T : class
    {
        var cache = key.Cache;
        using var span = Traces.Start("cache load")?.SetTag("cache", cache.Name);
        var start = time.GetTimestamp();
        try
        {
            var value = await load(stop);
            var duration = time.GetElapsedTime(start);
            cache.LastLoadTime = duration;
            metrics.Request(cache.Name, "source", value is null ? "negative" : "hit");
            metrics.Load(cache.Name, value is null ? "not_found" : "loaded", duration);
            var now = time.GetUtcNow();
            return value is null
                ? CacheEntry.Negative(entryKey, cache.Settings, floor, duration, now)
                : CacheEntry.Of(entryKey, cache, value, duration, now);
        }
        catch (Exception error)
        {
            metrics.Request(cache.Name, "source", "error");
            metrics.Load(cache.Name, "failed", time.GetElapsedTime(start));
            span.Failed(error);
            Log.LoadFailed(log, cache.Name, error.GetType().Name);
            throw;
        }
    }

    private void RefreshIfDue<T>(CacheKey<T> key, CacheEntry held, Func<CancellationToken, Task<T?>> load, DateTimeOffset now) where T : class
    {
        if (key.Cache.Settings.EarlyRefresh && held.Kind is EntryKind.Value && earlyRefresh.IsDue(held.FreshUntil, held.LoadTime, now))
        {
            _ = RefreshAsync(key, held, load);
        }
    }

    /// <summary>Loads in the background what is fresh still, unless another process does so already.</summary>
    private async Task RefreshAsync<T>(CacheKey<T> key, CacheEntry held, Func<CancellationToken, Task<T?>> load) where T : class
    {
        try
        {
            if (redis.IsTrustedWith(key.Cache.Name, key.Id) && await namespaces.CurrentAsync(key.Cache.Name, CancellationToken.None) is { } generation)
            {
                await FlyAsync(key, generation, redisAnswers: true, hadStale: true, held.FreshUntil, load, CancellationToken.None);
            }
        }
#pragma warning disable CA1031 // A failing load has been counted; the entry is fresh still, and nobody waits.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Log.NotRefreshed(log, key.Cache.Name, error.GetType().Name);
        }
    }

    private static string ResultOf(CacheEntry entry) => entry.Kind is EntryKind.Negative ? "negative" : "hit";

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "A load for the cache {Cache} failed: {Reason}")]
        public static partial void LoadFailed(ILogger log, string cache, string reason);

        [LoggerMessage(2, LogLevel.Debug, "An early refresh for the cache {Cache} did not take place: {Reason}")]
        public static partial void NotRefreshed(ILogger log, string cache, string reason);
    }
}
