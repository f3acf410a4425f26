using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// Cache-aside: read the cache; where it has nothing, load from the source, once however many ask, and keep that.
/// </summary>
internal sealed partial class CacheAside(
    RedisTier tier,
    Namespaces namespaces,
    SingleFlight<CacheResult> flights,
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<CacheAside> log)
{
    private const int MaxAttempts = 3;

    /// <summary>The cached thing, loaded where need be; <c>null</c> from <paramref name="load"/> means that there is no such thing.</summary>
    /// <exception cref="Exception">What <paramref name="load"/> threw, where not even a stale entry is kept.</exception>
    public async Task<CacheResult> GetAsync<T>(CacheKey<T> key, Func<CancellationToken, Task<T?>> load, CancellationToken cancel)
        where T : class
    {
        var cache = key.Cache.Name;
        var generation = tier.IsTrusted ? await namespaces.CurrentAsync(cache, cancel) : null;
        var entryKey = namespaces.Key(cache, generation ?? 0, key.Id);
        var read = generation is null ? default : await tier.GetAsync(entryKey, cancel);

        var now = time.GetUtcNow();
        if (read.Entry is { } held && held.IsFresh(now))
        {
            metrics.Request(cache, "redis", held.Kind is EntryKind.Negative ? "negative" : "hit");
            return new(held, CacheOutcome.Hit);
        }

        var stale = read.Entry?.IsUsable(now) == true ? read.Entry : null;
        try
        {
            var (result, joined) = await flights.RunAsync(
                $"{cache}:{key.Id}", generation ?? 0, stop => LoadAsync(key, entryKey, read, stale is not null, load, stop), cancel);
            metrics.Request(cache, "redis", read.Answered ? "miss" : "error");
            if (joined)
            {
                metrics.Coalesced(cache);
            }

            return result with { Collapsed = joined };
        }
        catch (Exception) when (stale is not null && !cancel.IsCancellationRequested)
        {
            metrics.Request(cache, "redis", "stale");
            return new(stale, CacheOutcome.StaleIfError);
        }
    }

    /// <summary>What the one caller of a flight does.</summary>
    private async Task<CacheResult> LoadAsync<T>(
        CacheKey<T> key, EntryKey entryKey, TierRead read, bool hadStale, Func<CancellationToken, Task<T?>> load, CancellationToken stop)
        where T : class
    {
        // The double check: between this caller's look-up and its flight another flight may have landed.
        if (read.Answered)
        {
            read = await tier.GetAsync(entryKey, stop);
            if (read.Entry is { } filled && filled.IsFresh(time.GetUtcNow()))
            {
                return new(filled, CacheOutcome.Hit);
            }
        }

        // A load that began after this version was seen is at least as new: that orders "not found", which has no version of its own.
        var floor = read.Entry?.Version ?? 0;
        for (var attempt = 1; ; attempt++)
        {
            var (entry, duration) = await LoadOnceAsync(key, entryKey, floor, load, stop);
            if (!read.Answered || duration > options.Value.LoadTimeout)
            {
                return new(entry, read.Answered ? CacheOutcome.Miss : CacheOutcome.Bypass);
            }

            var now = time.GetUtcNow();
            var write = await tier.CompareAndSetAsync(entryKey, entry, entry.UsableUntil - now, stop);
            if (write.Newer is not { } newer)
            {
                return new(entry, hadStale ? CacheOutcome.Refreshed : CacheOutcome.Miss, write.Stored);
            }

            metrics.RefusedFill(key.Cache.Name);
            if (newer.IsFresh(now))
            {
                return new(newer, CacheOutcome.Hit);
            }

            // A tombstone: what was loaded is older than a write that has been acknowledged since. Load again.
            if (newer.Kind is not EntryKind.Tombstone || attempt == MaxAttempts)
            {
                return new(entry, CacheOutcome.Miss);
            }

            floor = newer.Version;
        }
    }

    private async Task<(CacheEntry Entry, TimeSpan Duration)> LoadOnceAsync<T>(
        CacheKey<T> key, EntryKey entryKey, long floor, Func<CancellationToken, Task<T?>> load, CancellationToken stop)
        where T : class
    {
        var cache = key.Cache.Name;
        var start = time.GetTimestamp();
        try
        {
            var value = await load(stop);
            var duration = time.GetElapsedTime(start);
            metrics.Request(cache, "source", value is null ? "negative" : "hit");
            metrics.Load(cache, value is null ? "not_found" : "loaded", duration);
            var now = time.GetUtcNow();
            var entry = value is null
                ? CacheEntry.Negative(entryKey, key.Cache.Settings, floor, duration, now)
                : CacheEntry.Of(entryKey, key.Cache, value, duration, now);
            return (entry, duration);
        }
        catch (Exception error)
        {
            metrics.Request(cache, "source", "error");
            metrics.Load(cache, "failed", time.GetElapsedTime(start));
            Log.LoadFailed(log, cache, error.GetType().Name);
            throw;
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "A load for the cache {Cache} failed: {Reason}")]
        public static partial void LoadFailed(ILogger log, string cache, string reason);
    }
}
