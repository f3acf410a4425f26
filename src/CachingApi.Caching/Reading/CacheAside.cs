using CachingApi.Redis;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// Cache-aside: reads memory, then Redis. If neither has a fresh entry, it loads the value from the source and keeps it; all callers in
/// all processes share one load.
/// </summary>
internal sealed partial class CacheAside(
    Tiers tiers,
    LoadLimits loads,
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<CacheAside> log)
{
    private const int MaxAttempts = 3;

    /// <summary>The caches that the current flow loads for.</summary>
    private static readonly AsyncLocal<LoadingCache?> Loading = new();

    /// <summary>A little less than the second after which no process serves an older version.</summary>
    private static readonly TimeSpan MaxBypassAge = TimeSpan.FromSeconds(0.9);

    private readonly CoarseClock _clock = new(time);
    private int _saidNotStarted;

    /// <summary>
    /// The cached value; if none is fresh, it is loaded. <c>null</c> from <paramref name="load"/> means that the entity does not exist.
    /// </summary>
    /// <param name="load"><c>null</c> for the loader of the cache.</param>
    /// <param name="admit">See <see cref="Cache{T}"/>.</param>
    /// <exception cref="Exception"><paramref name="load"/> threw it, and not even a stale entry is cached.</exception>
    /// <exception cref="UnavailableException">Too many loads of this cache are already waiting.</exception>
    public ValueTask<CacheResult> GetAsync<T>(
        CacheKey<T> key, Func<CancellationToken, Task<T?>>? load, Func<bool, Task<bool>>? admit, CancellationToken cancel)
        where T : class => GetAsync(key, new ReadCall<T>(load, admit, default), cancel);

    /// <summary>
    /// As <see cref="GetAsync{T}(CacheKey{T}, Func{CancellationToken, Task{T}}, Func{bool, Task{bool}}, CancellationToken)"/>, with
    /// options.
    /// </summary>
    public ValueTask<CacheResult> GetAsync<T>(CacheKey<T> key, ReadCall<T> call, CancellationToken cancel) where T : class
    {
        var now = _clock.UtcNow;
        if (call.Skips(ReadSkips.MemoryRead) || !TryFind(key, now, out var kept))
        {
            return new(WarmLoad.Current is { } load ? ReadAsync(key, call, load, cancel) : ReadAsync(key, call, cancel));
        }

        var result = new CacheResult(kept.Entry, CacheOutcome.MemoryHit);
        if (WarmLoad.Current is { } warm)
        {
            warm.Note(key.Cache, result, inMemory: true);
        }
        else
        {
            key.Cache.CountMemoryHit(kept.IsNegative);
        }

        return kept.MayRefresh(now) && IsRefreshDue(key.Cache, call, kept.Entry, now) ? new(RefreshAsync(key, result, call)) : new(result);
    }

    /// <summary>The counter of look-ups of a cache in memory with a result.</summary>
    public StripedCounter MemoryCounter(string cache, string result) => metrics.RequestCounter(cache, "memory", result);

    /// <summary>The time in microseconds since the Unix epoch.</summary>
    public long Microseconds => (long)(time.GetUtcNow() - DateTimeOffset.UnixEpoch).TotalMicroseconds;

    public DateTimeOffset Now => _clock.UtcNow;

    /// <summary>The entry that memory can serve now.</summary>
    public CacheEntry? Find<T>(CacheKey<T> key) where T : class => TryFind(key, _clock.UtcNow, out var kept) ? kept.Entry : null;

    private bool TryFind<T>(CacheKey<T> key, DateTimeOffset now, out Kept kept) where T : class
    {
        if (!key.Cache.Options.InMemory || !CacheMetrics.IsTimed())
        {
            return tiers.Memory.TryFind(key.Cache, key.Id, now, out kept);
        }

        var start = time.GetTimestamp();
        var isFound = tiers.Memory.TryFind(key.Cache, key.Id, now, out kept);
        metrics.Operation("memory", "get", time.GetElapsedTime(start));
        if (isFound)
        {
            key.Cache.Hot.CountSampledHit(key.Id, key.Cache.MemoryHits, now);
        }

        return isFound;
    }

    private async Task<CacheResult> ReadAsync<T>(CacheKey<T> key, ReadCall<T> call, WarmLoad warm, CancellationToken cancel) where T : class
    {
        var result = await ReadAsync(key, call, cancel);
        warm.Note(key.Cache, result, TryFind(key, time.GetUtcNow(), out _));
        return result;
    }

    private async Task<CacheResult> ReadAsync<T>(CacheKey<T> key, ReadCall<T> call, CancellationToken cancel) where T : class
    {
        var cache = key.Cache;
        cache.Recent.Add(key.Id);
        using var span = Traces.Start("cache read")?.SetTag("cache", cache.Name);
        var (read, look) = await LookInRedisAsync(key, call, cancel);
        var now = time.GetUtcNow();
        cache.Hot.CountMiss(key.Id, now);
        if (cache.Options.InMemory)
        {
            CountLookUp(cache, "memory", "miss");
        }

        var held = look.Entry is { } found && IsCurrent(read, found, now) ? found : null;
        if (held?.IsFresh(now) == true)
        {
            Keep(read, held, now);
            CountLookUp(cache, "redis", ResultOf(held));
            var result = new CacheResult(held, CacheOutcome.RedisHit);
            return IsRefreshDue(cache, call, held, now) ? await RefreshAsync(key, result, call) : result;
        }

        var stale = held?.IsUsable(now) == true ? held : null;
        var lookUp = look.Answered ? "miss" : "error";
        try
        {
            var result = await AnswerAsync(read with { HadStale = stale is not null, FreshBeyond = now }, stale, look.Answered, cancel);
            lookUp = result.Outcome is CacheOutcome.StaleWhileRevalidate or CacheOutcome.StaleIfError ? "stale" : lookUp;
            return result;
        }
        finally
        {
            // A look-up counts even if its load fails or is not admitted; otherwise the hit ratio would rise while the source is down.
            if (tiers.Redis.IsConfigured)
            {
                CountLookUp(cache, "redis", lookUp);
            }
        }
    }

    /// <summary>Answers a read that found no fresh entry.</summary>
    private async Task<CacheResult> AnswerAsync<T>(Read<T> read, CacheEntry? stale, bool redisAnswers, CancellationToken cancel)
        where T : class
    {
        if (read.Call.Skips(ReadSkips.Load))
        {
            return stale is null
                ? new(CacheEntry.Tombstone(read.EntryKey, default, read.FreshBeyond), CacheOutcome.NotCached)
                : new(stale, CacheOutcome.StaleIfError);
        }

        if (read.Call.Admit is { } admit && !await admit(stale is not null) && stale is not null)
        {
            return new(stale, CacheOutcome.StaleWhileRevalidate);
        }

        return await LoadAsync(read, stale, redisAnswers, cancel);
    }

    private async Task<(Read<T> Read, TierRead Look)> LookInRedisAsync<T>(CacheKey<T> key, ReadCall<T> call, CancellationToken cancel)
        where T : class
    {
        var (epoch, begun) = await BeginAsync(key, cancel);
        var read = new Read<T>(key, tiers.Namespaces.Key(key.Cache, epoch, key.Id), begun, call);
        var look = epoch is null ? default
            : call.Skips(ReadSkips.RedisRead) ? new(Answered: true, Entry: null)
            : await tiers.Redis.GetAsync(read.EntryKey, cancel);
        if (call.Check is { } check)
        {
            await check.LearnAsync(look.Entry, cancel);
        }

        return (read, look);
    }

    /// <summary>Loads. A stale entry is served if the source fails or is slower than the soft time-out.</summary>
    private async Task<CacheResult> LoadAsync<T>(Read<T> read, CacheEntry? stale, bool redisAnswers, CancellationToken cancel)
        where T : class
    {
        var flight = FlyAsync(read, redisAnswers, cancel);
        try
        {
            return await (stale is null ? flight : flight.WaitAsync(options.Value.SoftTimeout, cancel));
        }
        catch (Exception error) when (stale is not null && !cancel.IsCancellationRequested)
        {
            var slow = error is TimeoutException && !flight.IsCompleted;
            return new(stale, slow ? CacheOutcome.StaleWhileRevalidate : CacheOutcome.StaleIfError);
        }
    }

    /// <remarks>
    /// If a load bypasses Redis, its fill is never refused. So a load that began long ago may have missed a write:
    /// 1. this process, which is cut off from Redis, begins a load and reads version 1 from the source, whose answer is slow;
    /// 2. another process commits version 2;
    /// 3. a reader comes two seconds later: if it joined the load of step 1, it would be served version 1.
    /// So a reader does not join a load that bypasses Redis and began <see cref="MaxBypassAge"/> ago or earlier.
    /// Nor is it served the result of a joined load if another reader of this process has been served a newer value since that load's read.
    /// </remarks>
    private async Task<CacheResult> FlyAsync<T>(Read<T> read, bool redisAnswers, CancellationToken cancel) where T : class
    {
        for (var attempt = 1; ; attempt++)
        {
            var throughRedis = redisAnswers;
            var (result, joined) = await loads.Flights.RunAsync(
                read.FlightKey,
                ((read.Epoch.Epoch.Generation ?? 0) * 16) + (long)read.Call.Shared,
                throughRedis ? TimeSpan.MaxValue : MaxBypassAge,
                stop => !throughRedis ? LoadWithoutRedisAsync(read, stop)
                    : read.Call.SkipsRedis ? LoadForMemoryAsync(read, stop)
                    : LoadUnderLeaseAsync(read, stop),
                cancel);
            if (result.Outcome is CacheOutcome.Bypass && joined >= MaxBypassAge)
            {
                redisAnswers = false; // Redis has gone away meanwhile
                continue;
            }

            if (joined is not null)
            {
                metrics.Coalesced(read.Cache.Name);
                if (attempt < MaxAttempts && (IsOlder(read, result.Entry) || !read.Call.Accepts(result.Entry)))
                {
                    continue;
                }
            }

            return result with { Collapsed = joined is not null };
        }
    }

    /// <summary>Loads with Redis, once for all callers of a flight.</summary>
    private async Task<CacheResult> LoadUnderLeaseAsync<T>(Read<T> read, CancellationToken stop) where T : class
    {
        var wanted = new Wanted(
            read.FreshBeyond,
            entry => !read.Call.Skips(ReadSkips.RedisRead) && IsCurrent(read, entry, time.GetUtcNow()),
            read.Call.Check);
        for (var attempt = 1; ; attempt++)
        {
            // Taking the lease reads the entry again (double check): another load, in any process, may have filled it since the look-up.
            await using var lease = await loads.Leases.TakeAsync(read.Cache.Name, read.Id, read.EntryKey, wanted, stop);
            switch (lease.Read.State)
            {
                case LeaseState.Unavailable:
                    return await LoadWithoutRedisAsync(read, stop);
                case LeaseState.BackingOff:
                    throw new UnavailableException("The source, as a load has just found,");
                case LeaseState.Fresh or LeaseState.Held:
                    Keep(read, lease.Read.Entry!, time.GetUtcNow());
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
        // A load that began after this revision was seen is at least as new. That orders "not found", which has no revision of its own.
        var entry = await LoadOnceAsync(read, lease.Read.Floor, redisAnswers: true, stop);
        lease.Loaded = true;
        if (!lastAttempt && !read.Call.Accepts(entry))
        {
            metrics.RefusedFill(read.Cache.Name);
            return null;
        }

        var now = time.GetUtcNow();
        if (read.Call.Skips(ReadSkips.RedisWrite))
        {
            Keep(read, entry, now);
            return new(entry, CacheOutcome.Miss);
        }

        var kept = loads.SizeLimit.Apply(read.Cache, read.EntryKey, entry);
        var timeToLive = ReferenceEquals(kept, entry) ? entry.UsableUntil - now : Invalidation.TombstoneTtl;
        var replaces = read.Call.Skips(ReadSkips.RedisRead);
        var write = await tiers.Redis.FillAsync(read.Cache.Name, read.Id, read.EntryKey, lease.Token, kept, timeToLive, replaces, stop);
        switch (write.State)
        {
            case WriteState.Stored when ReferenceEquals(kept, entry):
                lease.Ended = true;
                KeepLoaded(read, entry, now);
                return new(entry, read.HadStale ? CacheOutcome.Refreshed : CacheOutcome.Miss, Stored: true);
            case WriteState.Unavailable:
                return new(ServedAround(read, entry), CacheOutcome.Bypass);
            case WriteState.Stored:
            case WriteState.Refused when write.Newer?.Revision == kept.Revision:
                return new(Served(read, entry), CacheOutcome.Miss);
        }

        metrics.RefusedFill(read.Cache.Name);
        return write.Newer is { } newer && newer.IsFresh(now) && IsCurrent(read, newer, now)
            ? new(Served(read, newer), CacheOutcome.RedisHit)
            : lastAttempt ? new(ServedAround(read, entry), CacheOutcome.Miss)
            : null;
    }

    /// <summary>Loads for a caller that does not use Redis. It shares nothing with other processes, so it needs no lease.</summary>
    private async Task<CacheResult> LoadForMemoryAsync<T>(Read<T> read, CancellationToken stop) where T : class
    {
        var begun = tiers.Memory.Begin(read.Cache, read.Id, epoch: null);
        var entry = await LoadOnceAsync(read, floor: default, redisAnswers: true, stop);
        KeepLoaded(read with { Epoch = begun }, entry, time.GetUtcNow());
        return new(entry, CacheOutcome.Miss);
    }

    private async Task<CacheResult> LoadWithoutRedisAsync<T>(Read<T> read, CancellationToken stop) where T : class
    {
        var begun = tiers.Memory.Begin(read.Cache, read.Id, epoch: null);
        var entry = await LoadOnceAsync(read, floor: default, redisAnswers: false, stop);
        if (!tiers.Redis.IsConfigured)
        {
            var kept = loads.SizeLimit.Apply(read.Cache, read.EntryKey, entry);
            KeepLoaded(read with { Epoch = begun }, kept, time.GetUtcNow());
            return new(entry, CacheOutcome.Miss, Stored: read.Cache.Options.InMemory && ReferenceEquals(kept, entry));
        }

        if (!read.Cache.RequiresBackplane)
        {
            tiers.Memory.Keep(read.Cache, read.Id, entry, begun, time.GetUtcNow());
            return new(entry, CacheOutcome.Bypass);
        }

        return new(ServedAround(read, entry), CacheOutcome.Bypass);
    }

    /// <summary>Keeps a served entry in memory.</summary>
    /// <remarks>
    /// If the cache has been cleared since the read began, the entry is of the generation before, and the next one may have an older one:
    /// 1. a reader of this process reads generation 7 and misses;
    /// 2. another process clears the cache, and fills generation 8 with version 1;
    /// 3. a writer commits version 2, and has not updated the cache yet;
    /// 4. the reader loads version 2 and is served it;
    /// 5. the next reader of this process finds version 1 in generation 8.
    /// </remarks>
    private void Keep<T>(Read<T> read, CacheEntry entry, DateTimeOffset now) where T : class
    {
        NoteIfCleared(read, entry);
        if (read.Call.Skips(ReadSkips.MemoryWrite))
        {
            read.Cache.Memory.Invalidate(read.Id, entry.Revision);
        }
        else
        {
            tiers.Memory.Keep(read.Cache, read.Id, entry, read.Epoch, now, read.Call.Options.MemoryTtl);
        }
    }

    /// <summary>
    /// As <see cref="Keep"/>, for an entry that was loaded. If the reader did not accept the cached entry, memory must not go on serving
    /// it.
    /// </summary>
    private void KeepLoaded<T>(Read<T> read, CacheEntry entry, DateTimeOffset now) where T : class
    {
        if (!read.Call.Skips(ReadSkips.RedisRead))
        {
            Keep(read, entry, now);
            return;
        }

        NoteIfCleared(read, entry);
        tiers.Memory.Replace(read.Cache, read.Id, entry, read.Epoch, now, read.Call.Options);
    }

    private void NoteIfCleared<T>(Read<T> read, CacheEntry entry) where T : class
    {
        if (read.Epoch.Epoch == tiers.Namespaces.Of(read.Cache.Name).Current)
        {
            return;
        }

        if (read.Cache.RequiresBackplane)
        {
            tiers.Seen.Add(read.Cache, read.Id, entry);
        }

        // A read of the next generation may have kept an older value in memory, or may be about to load it.
        read.Cache.InvalidateMemory(read.Id, entry.Kind is EntryKind.Value ? entry.Revision : default);
        loads.Flights.Forget(read.FlightKey);
    }

    /// <summary>Begins a read; its epoch is <c>null</c> if Redis must not be asked.</summary>
    /// <remarks>
    /// The local epoch is taken first. In the other order: 1. the reader finds that Redis can be used; 2. a put of version 2 fails and is
    /// queued; 3. the reader takes its local epoch, and finds version 1 in Redis: memory would keep version 1.
    /// </remarks>
    private async ValueTask<(Epoch? Epoch, ReadEpoch Begun)> BeginAsync<T>(CacheKey<T> key, CancellationToken cancel) where T : class
    {
        var begun = tiers.Memory.Begin(key.Cache, key.Id, epoch: null);
        var epoch = tiers.Redis.IsTrustedWith(key.Cache.Name, key.Id) ? await tiers.Namespaces.CurrentAsync(key.Cache.Name, cancel) : null;
        if (epoch is null && tiers.Redis is { IsConfigured: true, IsStarted: false } && Interlocked.Exchange(ref _saidNotStarted, 1) == 0)
        {
            Log.NotStarted(log);
        }

        return (epoch, epoch is null ? begun : begun with { Epoch = epoch });
    }

    /// <summary>Whether an entry in Redis is at least as new as the newest one that this process has served or written.</summary>
    /// <remarks>
    /// After an interruption, no entry of the generation that the read began with is:
    /// 1. this process commits version 2, leaves a tombstone, and begins a read, which waits for the lease;
    /// 2. a replica of Redis that lacks the tombstone is promoted;
    /// 3. the read goes on, and finds version 1. Other reads ask for the generation first, and get a later one.
    /// </remarks>
    private bool IsCurrent<T>(Read<T> read, CacheEntry entry, DateTimeOffset now) where T : class =>
        (!read.Cache.RequiresBackplane || read.Epoch.Interruptions == tiers.Namespaces.Of(read.Cache.Name).Interruptions)
        && !tiers.Seen.MayBeNewerThan(read.Cache.Name, read.Id, entry)
        && entry.Revision >= read.Cache.Memory.LastKept(read.Id, now)
        && read.Call.Accepts(entry);

    private bool IsOlder<T>(Read<T> read, CacheEntry entry) where T : class => entry.Kind is EntryKind.Value
        && (entry.Revision < tiers.Seen.Highest(read.Cache.Name, read.Id)
            || entry.Revision < read.Cache.Memory.LastKept(read.Id, time.GetUtcNow()));

    /// <summary>Records a served entry that Redis does not have, so that no reader goes back to an older entry in Redis.</summary>
    private CacheEntry ServedAround<T>(Read<T> read, CacheEntry entry) where T : class
    {
        if (read.Cache.RequiresBackplane)
        {
            tiers.Seen.Add(read.Cache, read.Id, entry);
        }

        return Served(read, entry);
    }

    /// <summary>Records an entry that is served and not kept, so that memory does not go on serving an older one.</summary>
    private CacheEntry Served<T>(Read<T> read, CacheEntry entry) where T : class
    {
        NoteIfCleared(read, entry);
        read.Cache.InvalidateMemory(read.Id, entry.Revision);
        return entry;
    }

    private async Task<CacheEntry> LoadOnceAsync<T>(Read<T> read, Revision floor, bool redisAnswers, CancellationToken stop) where T : class
    {
        var cache = read.Cache;
        // A load may read this cache itself. If such reads waited for permits, waiting loads could hold all permits (a deadlock).
        using var permit = Loading.Value?.Includes(cache) == true
            ? null
            : await loads.Bulkheads.EnterAsync(cache, redisAnswers || !tiers.Redis.IsConfigured, stop);
        Loading.Value = new(cache, Loading.Value);
        using var span = Traces.Start("cache load")?.SetTag("cache", cache.Name);
        var start = time.GetTimestamp();
        try
        {
            // A load that ignores its token is abandoned at the time-out: its lease and its waiters must not hang with it.
            var value = await read.LoadAsync(stop).WaitAsync(stop);
            var duration = time.GetElapsedTime(start);
            cache.LastLoadTime = duration;
            metrics.Request(cache.Name, "source", value is null ? "negative" : "hit");
            metrics.Load(cache.Name, value is null ? "not_found" : "loaded", duration);
            var now = time.GetUtcNow();
            return value is null
                ? CacheEntry.Negative(read.EntryKey, cache.Options, floor, duration, now)
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

    private bool IsRefreshDue<T>(Cache<T> cache, ReadCall<T> call, CacheEntry held, DateTimeOffset now) where T : class =>
        cache.Options.EarlyRefresh
        && !call.Skips(ReadSkips.Load)
        && held.Kind is EntryKind.Value
        && loads.EarlyRefresh.IsDue(held.FreshUntil, held.LoadTime, now);

    /// <summary>Begins an early refresh in the background, if the caller is admitted. The caller is served the cached entry.</summary>
    private async Task<CacheResult> RefreshAsync<T>(CacheKey<T> key, CacheResult served, ReadCall<T> call) where T : class
    {
        if (call.Admit is not { } admit || await admit(true))
        {
            _ = RefreshAsync(key, served.Entry, call);
        }

        return served;
    }

    /// <summary>Loads in the background while the entry is still fresh, unless another process does so already.</summary>
    private async Task RefreshAsync<T>(CacheKey<T> key, CacheEntry held, ReadCall<T> call) where T : class
    {
        try
        {
            if (await BeginAsync(key, CancellationToken.None) is ({ } epoch, var begun))
            {
                var read = new Read<T>(key, tiers.Namespaces.Key(key.Cache, epoch, key.Id), begun, call);
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

    /// <summary>Counts a look-up of a client: see <see cref="WarmLoad"/>.</summary>
    private void CountLookUp(Cache cache, string tier, string result)
    {
        if (WarmLoad.Current is null)
        {
            metrics.Request(cache.Name, tier, result);
        }
    }

    private static string ResultOf(CacheEntry entry) => entry.Kind is EntryKind.Negative ? "negative" : "hit";

    /// <summary>One read under way: all of its steps use the key and the epochs that it began with.</summary>
    private readonly record struct Read<T>(CacheKey<T> Key, EntryKey EntryKey, ReadEpoch Epoch, ReadCall<T> Call)
        where T : class
    {
        public Cache<T> Cache => Key.Cache;

        public string Id => Key.Id;

        public string FlightKey => $"{Cache.Name}:{Id}";

        public Task<T?> LoadAsync(CancellationToken stop) =>
            Call.Load is { } load ? Cache.LoadAsync(Id, load, stop) : Cache.LoadAsync(Id, stop);

        /// <summary>Whether a stale entry can be served.</summary>
        public bool HadStale { get; init; }

        /// <summary>An entry that is fresh beyond this time needs no load.</summary>
        public DateTimeOffset FreshBeyond { get; init; }
    }

    /// <summary>A cache that the current flow loads for, and the caches of the outer loads that this load belongs to.</summary>
    private sealed record LoadingCache(Cache Cache, LoadingCache? Outer)
    {
        public bool Includes(Cache cache) => Cache == cache || Outer?.Includes(cache) == true;
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "A load for the cache {Cache} failed: {Reason}")]
        public static partial void LoadFailed(ILogger log, string cache, string reason);

        [LoggerMessage(3, LogLevel.Warning,
            "Nothing is cached yet, because the services of AddCaching have not been started: start the host (IHost.StartAsync)")]
        public static partial void NotStarted(ILogger log);

        [LoggerMessage(2, LogLevel.Debug, "An early refresh for the cache {Cache} did not take place: {Reason}")]
        public static partial void NotRefreshed(ILogger log, string cache, string reason);
    }
}
