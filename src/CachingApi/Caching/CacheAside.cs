using CachingApi.Storage;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// Cache-aside: reads the cache, memory first, then Redis; if neither has a fresh entry, loads from the source, once however many
/// callers ask in however many processes, and keeps the value.
/// </summary>
internal sealed partial class CacheAside(
    MemoryTier memory,
    RedisTier redis,
    Namespaces namespaces,
    Leases leases,
    SingleFlight<CacheResult> flights,
    Bulkheads bulkheads,
    EarlyRefresh earlyRefresh,
    SeenRevisions seen,
    EntrySizeLimit sizeLimit,
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<CacheAside> log)
{
    private const int MaxAttempts = 3;

    /// <summary>A little less than the second after which no process shows an older version.</summary>
    private static readonly TimeSpan MaxBypassAge = TimeSpan.FromSeconds(0.9);

    /// <summary>The cached value, loaded if need be; <c>null</c> from <paramref name="load"/> means that the source has no such entity.</summary>
    /// <exception cref="Exception">Thrown by <paramref name="load"/>, if not even a stale entry is cached.</exception>
    /// <exception cref="UnavailableException">Too many loads of this cache wait already.</exception>
    public ValueTask<CacheResult> GetAsync<T>(CacheKey<T> key, Func<CancellationToken, Task<T?>> load, CancellationToken cancel)
        where T : class => GetAsync(key, load, admit: null, cancel);

    /// <inheritdoc cref="GetAsync{T}(CacheKey{T}, Func{CancellationToken, Task{T}}, CancellationToken)"/>
    /// <param name="admit">
    /// Called if nothing is cached that could be served, before this caller waits for a load: it may refuse the caller by an exception,
    /// which does not count as a failure of the load.
    /// </param>
    public ValueTask<CacheResult> GetAsync<T>(
        CacheKey<T> key, Func<CancellationToken, Task<T?>> load, Func<Task>? admit, CancellationToken cancel)
        where T : class
    {
        var now = time.GetUtcNow();
        if (Find(key, now) is not { } held)
        {
            return new(ReadAsync(key, load, admit, cancel));
        }

        metrics.Request(key.Cache.Name, "memory", ResultOf(held));
        RefreshIfDue(key, held, load, now);
        return new(new CacheResult(held, CacheOutcome.MemoryHit));
    }

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

    private async Task<CacheResult> ReadAsync<T>(
        CacheKey<T> key, Func<CancellationToken, Task<T?>> load, Func<Task>? admit, CancellationToken cancel)
        where T : class
    {
        var cache = key.Cache;
        cache.Recent.Add(key.Id);
        using var span = Traces.Start("cache read")?.SetTag("cache", cache.Name);
        var epoch = redis.IsTrustedWith(cache.Name, key.Id) ? await namespaces.CurrentAsync(cache.Name, cancel) : null;
        var read = new Read<T>(key, namespaces.Key(cache, epoch, key.Id), memory.Begin(cache, key.Id, epoch), load);
        var look = epoch is null ? default : await redis.GetAsync(read.EntryKey, cancel);

        var now = time.GetUtcNow();
        if (cache.Settings.InMemory)
        {
            metrics.Request(cache.Name, "memory", "miss");
        }

        var held = look.Entry is { } found && !seen.MayBeNewerThan(cache.Name, key.Id, found) ? found : null;
        if (held?.IsFresh(now) == true)
        {
            memory.Keep(cache, key.Id, held, read.Epoch, now);
            metrics.Request(cache.Name, "redis", ResultOf(held));
            RefreshIfDue(key, held, load, now);
            return new(held, CacheOutcome.RedisHit);
        }

        var stale = held?.IsUsable(now) == true ? held : null;
        if (stale is null && admit is not null)
        {
            await admit();
        }

        var flight = FlyAsync(read with { HadStale = stale is not null, FreshBeyond = now }, look.Answered, cancel);
        try
        {
            var result = await (stale is null ? flight : flight.WaitAsync(options.Value.SoftTimeout, cancel));
            metrics.Request(cache.Name, "redis", look.Answered ? "miss" : "error");
            return result;
        }
        catch (Exception error) when (stale is not null && !cancel.IsCancellationRequested)
        {
            metrics.Request(cache.Name, "redis", "stale");
            var slow = error is TimeoutException && !flight.IsCompleted;
            return new(stale, slow ? CacheOutcome.StaleWhileRevalidate : CacheOutcome.StaleIfError);
        }
    }

    /// <remarks>
    /// Around Redis no fill is refused, so a load that began long ago may have missed a write:
    /// 1. this process, which is cut off from Redis, begins a load and reads version 1 of the source, whose answer is slow;
    /// 2. another process commits version 2;
    /// 3. a reader comes two seconds later: to join the load of step 1 would show it version 1.
    /// So it joins no load around Redis that began <see cref="MaxBypassAge"/> ago.
    /// </remarks>
    private async Task<CacheResult> FlyAsync<T>(Read<T> read, bool redisAnswers, CancellationToken cancel) where T : class
    {
        while (true)
        {
            var throughRedis = redisAnswers;
            var (result, joined) = await flights.RunAsync(
                $"{read.Cache.Name}:{read.Id}",
                read.Epoch.Epoch.Generation ?? 0,
                throughRedis ? TimeSpan.MaxValue : MaxBypassAge,
                stop => throughRedis ? LoadUnderLeaseAsync(read, stop) : LoadWithoutRedisAsync(read, stop),
                cancel);
            if (result.Outcome is CacheOutcome.Bypass && joined >= MaxBypassAge)
            {
                redisAnswers = false; // Redis has gone away meanwhile
                continue;
            }

            if (joined is not null)
            {
                metrics.Coalesced(read.Cache.Name);
            }

            return result with { Collapsed = joined is not null };
        }
    }

    /// <summary>Loads with Redis, once for all callers of a flight.</summary>
    private async Task<CacheResult> LoadUnderLeaseAsync<T>(Read<T> read, CancellationToken stop) where T : class
    {
        var wanted = new Wanted(read.FreshBeyond, entry => !seen.MayBeNewerThan(read.Cache.Name, read.Id, entry));
        for (var attempt = 1; ; attempt++)
        {
            // With the lease comes the double check: another flight, here or elsewhere, may have landed since the look-up.
            await using var lease = await leases.TakeAsync(read.Cache.Name, read.Id, read.EntryKey, wanted, stop);
            switch (lease.Read.State)
            {
                case LeaseState.Unavailable:
                    return await LoadWithoutRedisAsync(read, stop);
                case LeaseState.BackingOff:
                    throw new UnavailableException("The source, as a load has just found,");
                case LeaseState.Fresh or LeaseState.Held:
                    memory.Keep(read.Cache, read.Id, lease.Read.Entry!, read.Epoch, time.GetUtcNow());
                    return new(lease.Read.Entry!, CacheOutcome.RedisHit);
            }

            if (await LoadAndFillAsync(read, lease, lastAttempt: attempt == MaxAttempts, stop) is { } result)
            {
                return result;
            }
        }
    }

    /// <summary>Loads and fills under a lease that was granted.</summary>
    /// <returns><c>null</c> if the value may be older than a write that has been acknowledged since: it must be loaded again.</returns>
    private async Task<CacheResult?> LoadAndFillAsync<T>(Read<T> read, Lease lease, bool lastAttempt, CancellationToken stop)
        where T : class
    {
        // A load that began after this revision was seen is at least as new: that orders "not found", which has no revision of its own.
        var entry = await LoadOnceAsync(read, lease.Read.Floor, redisAnswers: true, stop);
        lease.Loaded = true;

        var now = time.GetUtcNow();
        var kept = sizeLimit.Apply(read.Cache, read.EntryKey, entry);
        var timeToLive = ReferenceEquals(kept, entry) ? entry.UsableUntil - now : Invalidation.TombstoneTtl;
        var write = await redis.FillAsync(read.Cache.Name, read.Id, read.EntryKey, lease.Token, kept, timeToLive, stop);
        switch (write.State)
        {
            case WriteState.Stored when ReferenceEquals(kept, entry):
                lease.Ended = true;
                memory.Keep(read.Cache, read.Id, entry, read.Epoch, now);
                return new(entry, read.HadStale ? CacheOutcome.Refreshed : CacheOutcome.Miss, Stored: true);
            case WriteState.Unavailable:
                return new(Served(read, entry), CacheOutcome.Bypass);
            case WriteState.Stored:
            case WriteState.Refused when write.Newer?.Revision == kept.Revision:
                return new(Served(read, entry), CacheOutcome.Miss);
        }

        metrics.RefusedFill(read.Cache.Name);
        return write.Newer is { } newer && newer.IsFresh(now) ? new(Served(read, newer), CacheOutcome.RedisHit)
            : lastAttempt ? new(Served(read, entry), CacheOutcome.Miss)
            : null;
    }

    private async Task<CacheResult> LoadWithoutRedisAsync<T>(Read<T> read, CancellationToken stop) where T : class
    {
        var begun = memory.Begin(read.Cache, read.Id, epoch: null);
        var entry = await LoadOnceAsync(read, floor: default, redisAnswers: false, stop);
        if (entry.Version > 0)
        {
            seen.Add(read.Cache.Name, read.Id, entry.Revision);
        }

        if (!read.Cache.RequiresBackplane)
        {
            memory.Keep(read.Cache, read.Id, entry, begun, time.GetUtcNow());
            return new(entry, CacheOutcome.Bypass);
        }

        return new(Served(read, entry), CacheOutcome.Bypass);
    }

    /// <summary>An entry that is served and not kept: memory must not go on with an older one.</summary>
    private CacheEntry Served<T>(Read<T> read, CacheEntry entry) where T : class
    {
        memory.Changed(read.Cache, read.Id, entry.Revision);
        return entry;
    }

    private async Task<CacheEntry> LoadOnceAsync<T>(Read<T> read, Revision floor, bool redisAnswers, CancellationToken stop) where T : class
    {
        var cache = read.Cache;
        using var permit = await bulkheads.EnterAsync(cache.Name, redisAnswers, stop);
        using var span = Traces.Start("cache load")?.SetTag("cache", cache.Name);
        var start = time.GetTimestamp();
        try
        {
            // A load that ignores its token is abandoned at the time-out: its lease and its waiters must not hang with it.
            var value = await read.Load(stop).WaitAsync(stop);
            var duration = time.GetElapsedTime(start);
            cache.LastLoadTime = duration;
            metrics.Request(cache.Name, "source", value is null ? "negative" : "hit");
            metrics.Load(cache.Name, value is null ? "not_found" : "loaded", duration);
            var now = time.GetUtcNow();
            return value is null
                ? CacheEntry.Negative(read.EntryKey, cache.Settings, floor, duration, now)
                : CacheEntry.Of(read.EntryKey, cache, value, duration, now);
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

    /// <summary>Loads in the background while the entry is still fresh, unless another process does so already.</summary>
    private async Task RefreshAsync<T>(CacheKey<T> key, CacheEntry held, Func<CancellationToken, Task<T?>> load) where T : class
    {
        try
        {
            if (redis.IsTrustedWith(key.Cache.Name, key.Id) && await namespaces.CurrentAsync(key.Cache.Name, CancellationToken.None) is { } epoch)
            {
                var read = new Read<T>(key, namespaces.Key(key.Cache, epoch, key.Id), memory.Begin(key.Cache, key.Id, epoch), load);
                await FlyAsync(read with { HadStale = true, FreshBeyond = held.FreshUntil }, redisAnswers: true, CancellationToken.None);
            }
        }
#pragma warning disable CA1031 // A failed load has been counted; the entry is still fresh, and no caller waits.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Log.NotRefreshed(log, key.Cache.Name, error.GetType().Name);
        }
    }

    private static string ResultOf(CacheEntry entry) => entry.Kind is EntryKind.Negative ? "negative" : "hit";

    /// <summary>One read on its way: all of its steps use the keys, the epoch and the ticket that it began with.</summary>
    private readonly record struct Read<T>(CacheKey<T> Key, EntryKey EntryKey, ReadEpoch Epoch, Func<CancellationToken, Task<T?>> Load)
        where T : class
    {
        public Cache<T> Cache => Key.Cache;

        public string Id => Key.Id;

        /// <summary>Whether a stale entry is there to serve.</summary>
        public bool HadStale { get; init; }

        /// <summary>An entry that is fresh beyond this time needs no load.</summary>
        public DateTimeOffset FreshBeyond { get; init; }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "A load for the cache {Cache} failed: {Reason}")]
        public static partial void LoadFailed(ILogger log, string cache, string reason);

        [LoggerMessage(2, LogLevel.Debug, "An early refresh for the cache {Cache} did not take place: {Reason}")]
        public static partial void NotRefreshed(ILogger log, string cache, string reason);
    }
}
