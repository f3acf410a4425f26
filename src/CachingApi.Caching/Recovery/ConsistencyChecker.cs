using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// Continuously compares the entries of a few keys in both tiers with the source. It measures how long entries are stale, and reports
/// those that stay wrong. (Compare Meta's Polaris and Uber's Cache Inspector.)
/// </summary>
/// <remarks>
/// A single difference proves nothing:
/// 1. the checker reads version 1 from Redis;
/// 2. a writer commits version 2 and invalidates the entry;
/// 3. the checker reads version 2 from the source.
/// So it looks again, several times. A tier is inconsistent only if the same entry is there at every look, the last of which begins
/// after the promised bound, and the source had the same other value at every look.
/// </remarks>
internal sealed partial class ConsistencyChecker(
    IEnumerable<Cache> caches,
    Tiers tiers,
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<ConsistencyChecker> log) : EngineService
{
    /// <summary>
    /// The pauses before further looks: 50 ms, 200 ms, 1 s and 2.5 s after the first one. The promised bound is 1 s; the rest is
    /// slack for a busy machine.
    /// </summary>
    private static readonly TimeSpan[] Pauses =
        [TimeSpan.FromMilliseconds(50), TimeSpan.FromMilliseconds(150), TimeSpan.FromMilliseconds(800), TimeSpan.FromMilliseconds(1500)];

    private static readonly TimeSpan LogInterval = TimeSpan.FromMinutes(1);

    private readonly Lock _logging = new();
    private long? _loggedAt;

    /// <summary>Compares one key; ends when its tiers agree with the source, or at the last look.</summary>
    public async Task CompareAsync(Cache cache, string id, CancellationToken cancel)
    {
        try
        {
            await FollowAsync(cache, id, cancel);
        }
#pragma warning disable CA1031 // A failure of the source is no evidence about the cache, and no caller waits.
        catch (Exception error) when (!cancel.IsCancellationRequested)
#pragma warning restore CA1031
        {
            Log.NotCompared(log, cache.Name, error.GetType().Name);
        }
    }

    protected override async Task RunAsync(CancellationToken cancel)
    {
        var rate = options.Value.Verify;
        var compared = caches.Where(cache => cache.HasSource).ToArray();
        if (rate == 0 || compared.Length == 0)
        {
            return;
        }

        foreach (var cache in compared)
        {
            metrics.WatchInconsistencies(cache.Name);
        }

        // Sampling scans the memory tier, so one sample is taken for about a second's worth of keys.
        var keysOfSample = Math.Max(compared.Length, (int)Math.Ceiling(rate));
        using var timer = new PeriodicTimer(TimeSpan.FromSeconds(1 / Math.Max(rate, 0.001)));
        while (true)
        {
            var keys = Sample(compared, keysOfSample);
            for (var tick = 0; tick < keysOfSample; tick++)
            {
                await timer.WaitForNextTickAsync(cancel);
                if (tick < keys.Count)
                {
                    await CompareAsync(keys[tick].Cache, keys[tick].Id, cancel);
                }
            }
        }
    }

    /// <summary>Recently read keys, from each cache in turn.</summary>
    private static List<(Cache Cache, string Id)> Sample(Cache[] compared, int count) =>
    [
        .. compared
            .SelectMany(cache => cache.Memory.Sample(count).Union(cache.Recent.Sample(count)).Take(count)
                .Select((id, place) => (Place: place, Key: (cache, id))))
            .OrderBy(sampled => sampled.Place)
            .Take(count)
            .Select(sampled => sampled.Key),
    ];

    private List<Difference> DifferencesIn(Look look, string cache)
    {
        var differences = new List<Difference>();
        foreach (var (tier, entry) in look.Entries)
        {
            if (Content.Of(entry).Agrees(look.Source))
            {
                metrics.Staleness(cache, tier, TimeSpan.Zero);
            }
            else
            {
                differences.Add(new(tier, entry, look));
            }
        }

        return differences;
    }

    private async Task FollowAsync(Cache cache, string id, CancellationToken cancel)
    {
        var name = cache.Name;
        var look = await LookAsync(cache, id, cancel);
        var differences = DifferencesIn(look, name);
        foreach (var pause in Pauses)
        {
            if (differences.Count == 0)
            {
                return;
            }

            await Task.Delay(pause, cancel);
            look = await LookAsync(cache, id, cancel);
            differences.RemoveAll(difference =>
            {
                var over = !difference.IsIn(look);
                if (over)
                {
                    metrics.Staleness(name, difference.Tier, time.GetElapsedTime(difference.Since, difference.LastSeen));
                }

                return over;
            });
        }

        foreach (var difference in differences)
        {
            var lasted = time.GetElapsedTime(difference.Since, difference.LastSeen);
            metrics.Staleness(name, difference.Tier, lasted);
            if (difference.IsTheSame)
            {
                metrics.Inconsistent(name, difference.Tier);
                Warn(name, id, difference, lasted);
            }
        }
    }

    /// <summary>Reads the tiers, then the source: a source that is read first may be older than they are.</summary>
    private async Task<Look> LookAsync(Cache cache, string id, CancellationToken cancel)
    {
        var began = time.GetTimestamp();
        var entries = new List<(string Tier, CacheEntry Entry)>(2);
        if (tiers.Memory.Peek(cache, id) is var (kept, until) && time.GetUtcNow() < until)
        {
            entries.Add(("memory", kept));
        }

        if (await GetAsync(cache, id, cancel) is { } held)
        {
            entries.Add(("redis", held));
        }

        var source = entries.Count == 0 ? default : Content.Of(await LoadAsync(cache, id, cancel));
        return new(entries, source, began, time.GetTimestamp());
    }

    /// <summary>The entry that a read would be served from Redis as fresh; <c>null</c> if there is none.</summary>
    private async Task<CacheEntry?> GetAsync(Cache cache, string id, CancellationToken cancel)
    {
        if (!tiers.Redis.IsTrustedWith(cache.Name, id) || await tiers.Namespaces.CurrentAsync(cache.Name, cancel) is not { } epoch)
        {
            return null;
        }

        var held = (await tiers.Redis.GetAsync(tiers.Namespaces.Key(cache, epoch, id), cancel)).Entry;
        return held?.IsFresh(time.GetUtcNow()) == true && !tiers.Seen.MayBeNewerThan(cache.Name, id, held) ? held : null;
    }

    private async Task<CacheEntry> LoadAsync(Cache cache, string id, CancellationToken cancel)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        stop.CancelAfter(options.Value.LoadTimeout);
        // It waits for a load that ignores its token: otherwise, the next load would run at the same time.
        return await cache.LoadEntryAsync(id, stop.Token).WaitAsync(cancel);
    }

    private void Warn(string cache, string id, Difference difference, TimeSpan lasted)
    {
        lock (_logging)
        {
            if (_loggedAt is { } at && time.GetElapsedTime(at) < LogInterval)
            {
                return;
            }

            _loggedAt = time.GetTimestamp();
        }

        var age = time.GetUtcNow() - difference.Created;
        Log.Inconsistent(log, difference.Tier, cache, id, difference.Held, age, difference.Source, lasted);
    }

    /// <summary>The content of an entry, without its times and the generation of its key.</summary>
    private readonly record struct Content(EntryKind Kind, Revision Revision, ulong Hash)
    {
        /// <remarks>Without a version, the rest of the revision tells how new a value is, but does not identify it.</remarks>
        public static Content Of(CacheEntry entry) => new(entry.Kind, entry.Version > 0 ? entry.Revision : default, entry.ContentHash);

        /// <summary>If the entity does not exist in the source, there is no revision, so only the kinds are compared.</summary>
        public bool Agrees(Content source) => Kind is EntryKind.Negative ? source.Kind is EntryKind.Negative : this == source;

        public override string ToString() => Kind is EntryKind.Negative
            ? "no entity"
            : $"version {Revision.Version} (fence {Revision.Fence}, content {Hash:x16})";
    }

    /// <summary>The entries that the tiers served at one time, and the source's content right after.</summary>
    private sealed record Look(IReadOnlyList<(string Tier, CacheEntry Entry)> Entries, Content Source, long Began, long Ended);

    /// <summary>A tier's entry that differs from the source, over several looks.</summary>
    private sealed class Difference(string tier, CacheEntry entry, Look first)
    {
        public string Tier => tier;

        public DateTimeOffset Created => entry.Created;

        public Content Held { get; } = Content.Of(entry);

        public Content Source => first.Source;

        public long Since => first.Began;

        public long LastSeen { get; private set; } = first.Ended;

        /// <summary>Whether the entry and the source's value have not changed so far. If one has, a write was under way.</summary>
        public bool IsTheSame { get; private set; } = true;

        /// <summary>Whether the tier still differs from the source.</summary>
        public bool IsIn(Look look)
        {
            foreach (var (at, held) in look.Entries)
            {
                if (at == tier && Content.Of(held) is var content && !content.Agrees(look.Source))
                {
                    LastSeen = look.Ended;
                    IsTheSame &= content == Held && look.Source == Source;
                    return true;
                }
            }

            return false;
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "The tier {Tier} of the cache {Cache} is inconsistent: for {Id} it has held {Held}, made {Age} ago, "
            + "and the source has had {Source} for {Lasted}. "
            + "Each is counted (cache_inconsistencies_total); one per minute is logged")]
        public static partial void Inconsistent(
            ILogger log, string tier, string cache, string id, Content held, TimeSpan age, Content source, TimeSpan lasted);

        [LoggerMessage(2, LogLevel.Debug, "A key of the cache {Cache} was not compared with the source: {Reason}")]
        public static partial void NotCompared(ILogger log, string cache, string reason);
    }
}
