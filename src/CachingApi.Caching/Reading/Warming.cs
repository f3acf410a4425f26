using System.Collections.Concurrent;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Threading.Channels;
using CachingApi.Redis;

namespace CachingApi.Caching.Operations;

/// <summary>The progress of a warming job.</summary>
/// <param name="Cache">The name of the cache.</param>
/// <param name="Total">How many entries are to be loaded.</param>
/// <param name="Done">How many were loaded, or were cached before.</param>
/// <param name="Failed">How many could not be loaded.</param>
public sealed record WarmingJob(
    string Id,
    string Cache,
    int Total,
    int Done,
    int Failed,
    DateTimeOffset StartedAt,
    DateTimeOffset? FinishedAt)
{
    /// <summary>
    /// How many of those that are done the cache has. It does not keep an entry while Redis is not in use, an entry that is too large, and
    /// one that a write has superseded.
    /// </summary>
    public int Kept { get; init; }
}

[JsonSerializable(typeof(WarmingJob))]
internal sealed partial class WarmingJson : JsonSerializerContext;

/// <summary>
/// Pre-warming: loads entities before they are requested, through the normal path and a few at a time. At start each process warms its
/// own memory; a job runs in one process per cache at a time, which reports its progress in Redis.
/// </summary>
public sealed partial class Warming : BackgroundService
{
    /// <summary>After so many failures in a row, the source counts as away, and the job ends.</summary>
    private const int MaxFailuresInARow = 20;

    /// <summary>How long clients see a job as running after its process has ended.</summary>
    private static readonly TimeSpan LeaseTtl = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan ReportEvery = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan ReportTtl = TimeSpan.FromHours(1);

    /// <summary>For how long the warming at start waits for Redis, without which memory keeps few entries.</summary>
    private const long MaxWaitForRedisMilliseconds = 10_000;

    private static readonly TimeSpan WaitInterval = TimeSpan.FromMilliseconds(50);
    private static readonly TimeSpan RetryInterval = TimeSpan.FromMilliseconds(250);

    private readonly IEnumerable<Cache> _caches;
    private readonly RedisConnections _redis;
    private readonly RedisTier _tier;
    private readonly Backplane _backplane;
    private readonly TimeProvider _time;
    private readonly ILogger _log;

    private readonly Channel<(Cache Cache, IReadOnlyList<string> Keys, WarmingJob Job)> _jobs =
        Channel.CreateUnbounded<(Cache, IReadOnlyList<string>, WarmingJob)>();

    /// <summary>The last warm-up of each cache in this process.</summary>
    private readonly ConcurrentDictionary<string, (WarmingJob Job, Progress Progress)> _last = new();

    internal Warming(
        IEnumerable<Cache> caches,
        RedisConnections redis,
        RedisTier tier,
        Backplane backplane,
        TimeProvider time,
        ILogger<Warming> log) =>
        (_caches, _redis, _tier, _backplane, _time, _log) = (caches, redis, tier, backplane, time, log);

    /// <summary>Begins a job, unless one is at work on this cache already, here or elsewhere.</summary>
    /// <returns>The job, and whether it is the one that was asked for.</returns>
    /// <exception cref="UnavailableException">Redis (state) is away.</exception>
    public async Task<(string Id, bool Begun)> BeginAsync(Cache cache, IReadOnlyList<string> keys, CancellationToken cancel)
    {
        var now = _time.GetUtcNow();
        var name = cache.Name;
        var job = new WarmingJob(Guid.CreateVersion7(now).ToString(), name, keys.Count, 0, 0, now, null);
        while (!await _redis.OnStateAsync(state => state.LockTakeAsync(LeaseKey(name), job.Id, LeaseTtl), cancel))
        {
            if (await HolderAsync(name, cancel) is { } holder)
            {
                return (holder, false);
            }
        }

        await ReportAsync(job, cancel);
        _jobs.Writer.TryWrite((cache, keys, job));
        return (job.Id, true);
    }

    /// <summary>How far a job is, and whether it goes on; <c>null</c> where there was none within the last hour.</summary>
    /// <exception cref="UnavailableException">Redis (state) is away.</exception>
    public async Task<(WarmingJob Job, bool Running)?> FindAsync(string id, CancellationToken cancel)
    {
        var text = await _redis.OnStateAsync(state => state.StringGetAsync(JobKey(id)), cancel);
        if (text.IsNull || JsonSerializer.Deserialize((string)text!, WarmingJson.Default.WarmingJob) is not { } job)
        {
            return null;
        }

        return (job, job.FinishedAt is null && await HolderAsync(job.Cache, cancel) == id);
    }

    /// <summary>The last warm-up of a cache in this process, at start or by a job; <c>null</c> if there was none.</summary>
    public WarmingJob? FindLast(Cache cache) => _last.TryGetValue(cache.Name, out var last) ? last.Progress.Of(last.Job) : null;

    /// <inheritdoc/>
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var running = _caches.Where(cache => cache.Warming?.AtStart > 0).Select(cache => AtStartAsync(cache, stoppingToken)).ToList();
        try
        {
            await foreach (var (cache, keys, job) in _jobs.Reader.ReadAllAsync(stoppingToken))
            {
                running.RemoveAll(task => task.IsCompleted);
                running.Add(RunAsync(cache, keys, job, stoppingToken));
            }
        }
        catch (OperationCanceledException) when (stoppingToken.IsCancellationRequested)
        {
            // The host ends, or is disposed without a stop.
        }
        finally
        {
            await Task.WhenAll(running);
        }
    }

    private async Task AtStartAsync(Cache cache, CancellationToken stop)
    {
        try
        {
            // Real time, not the injected clock: Redis comes on its own.
            var giveUpAt = Environment.TickCount64 + MaxWaitForRedisMilliseconds;
            await WaitForRedisAsync(giveUpAt, stop);
            var keys = await cache.TopKeysAsync(cache.Warming!.AtStart, stop);
            var now = _time.GetUtcNow();
            var job = new WarmingJob(Guid.CreateVersion7(now).ToString(), cache.Name, keys.Count, 0, 0, now, null);
            await LoadAsync(cache, keys, Begin(job), (key, cancel) => LoadAtStartAsync(cache, key, giveUpAt, cancel), stop);
        }
#pragma warning disable CA1031 // No caller waits for it, and the service must not end with it: a read loads the entry anyway.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Log.NotWarmed(_log, cache.Name, error.Message);
        }
    }

    /// <summary>
    /// Loads, and loads again if Redis was not in use: the first calls of a process are slow, so some of them miss their deadline although
    /// Redis answers.
    /// </summary>
    private async Task<WarmOutcome> LoadAtStartAsync(Cache cache, string key, long giveUpAt, CancellationToken cancel)
    {
        while (true)
        {
            var outcome = await WarmLoad.RunAsync(cache, key, cancel);
            if (outcome is not WarmOutcome.Bypassed || Environment.TickCount64 >= giveUpAt)
            {
                return outcome;
            }

            await Task.Delay(RetryInterval, cancel);
            await WaitForRedisAsync(giveUpAt, cancel);
        }
    }

    /// <summary>Waits until both tiers keep loaded entries, but not beyond <paramref name="giveUpAt"/>.</summary>
    private async Task WaitForRedisAsync(long giveUpAt, CancellationToken cancel)
    {
        while (!IsRedisInUse && Environment.TickCount64 < giveUpAt)
        {
            await Task.Delay(WaitInterval, cancel);
        }
    }

    private bool IsRedisInUse => !_tier.IsConfigured || (_tier.IsTrusted && _backplane.IsTrusted);

    private Progress Begin(WarmingJob job)
    {
        var progress = new Progress();
        _last[job.Cache] = (job, progress);
        return progress;
    }

    private async Task RunAsync(Cache cache, IReadOnlyList<string> keys, WarmingJob job, CancellationToken stop)
    {
        var progress = Begin(job);
        var loading = LoadAsync(cache, keys, progress, (key, cancel) => WarmLoad.RunAsync(cache, key, cancel), stop);
        while (await Task.WhenAny(loading, Task.Delay(ReportEvery, CancellationToken.None)) != loading)
        {
            await SayAsync(progress.Of(job), LeaseTtl);
        }

        await SayAsync(progress.Of(job), TimeSpan.Zero);
    }

    /// <summary>Says how far a job is, and that it goes on for this long at least.</summary>
    private async Task SayAsync(WarmingJob job, TimeSpan lease)
    {
        try
        {
            await ReportAsync(job, CancellationToken.None);
            await _redis.OnStateAsync(
                state => lease > TimeSpan.Zero
                    ? state.LockExtendAsync(LeaseKey(job.Cache), job.Id, lease)
                    : state.LockReleaseAsync(LeaseKey(job.Cache), job.Id),
                CancellationToken.None);
        }
        catch (UnavailableException outage)
        {
            Log.NotSaid(_log, job.Cache, outage.Message);
        }
    }

    private async Task LoadAsync(
        Cache cache,
        IReadOnlyList<string> keys,
        Progress progress,
        Func<string, CancellationToken, Task<WarmOutcome>> load,
        CancellationToken stop)
    {
        using var enough = CancellationTokenSource.CreateLinkedTokenSource(stop);
        try
        {
            await Parallel.ForEachAsync(
                keys,
                new ParallelOptions { MaxDegreeOfParallelism = cache.Warming?.Options.Parallelism ?? 4, CancellationToken = enough.Token },
                async (key, cancel) =>
                {
                    try
                    {
                        progress.Add(await load(key, cancel));
                    }
#pragma warning disable CA1031 // It is counted, and logged once at the end.
                    catch (Exception error) when (!cancel.IsCancellationRequested)
#pragma warning restore CA1031
                    {
                        progress.Fail(error.Message);
                    }

                    if (progress.FailedInARow >= MaxFailuresInARow)
                    {
                        await enough.CancelAsync();
                    }
                });
        }
        catch (OperationCanceledException) when (!stop.IsCancellationRequested)
        {
            // The source is away; the number of those that were loaded says so.
        }

        var (done, kept, failed) = (progress.Done, progress.Kept, progress.Failed);
        if (kept == keys.Count)
        {
            Log.Warmed(_log, cache.Name, done, keys.Count, kept, failed);
        }
        else
        {
            Log.NotAllKept(_log, cache.Name, done, keys.Count, kept, failed, ReasonOf(progress));
        }

        progress.Finish(_time.GetUtcNow());
    }

    /// <summary>Why the cache does not have all entries.</summary>
    private string ReasonOf(Progress progress)
    {
        string?[] reasons =
        [
            progress.Bypassed > 0 ? $"Entries were not kept because Redis is not in use. {_tier.LastFailure}" : null,
            progress.Kept + progress.Bypassed < progress.Done
                ? "Entries were not kept because they are too large or superseded, or because their keys name no entity."
                : null,
            progress.LastFailure is { } failure ? $"The last failure: {failure}" : null,
        ];
        return string.Join(' ', reasons.OfType<string>());
    }

    private async Task<string?> HolderAsync(string cache, CancellationToken cancel) =>
        await _redis.OnStateAsync(state => state.StringGetAsync(LeaseKey(cache)), cancel);

    private Task<bool> ReportAsync(WarmingJob job, CancellationToken cancel) => _redis.OnStateAsync(
        state => state.StringSetAsync(JobKey(job.Id), JsonSerializer.Serialize(job, WarmingJson.Default.WarmingJob), ReportTtl), cancel);

    private string LeaseKey(string cache) => $"{_redis.KeyPrefix}:warming:{cache}";

    private string JobKey(string id) => $"{_redis.KeyPrefix}:warming-job:{id}";

    /// <summary>The results of a warm-up's loads so far.</summary>
    private sealed class Progress
    {
        private readonly Lock _lock = new();
        private DateTimeOffset? _finishedAt;

        public int Done { get; private set; }

        public int Kept { get; private set; }

        /// <summary>How many were not kept because Redis is not in use.</summary>
        public int Bypassed { get; private set; }

        public int Failed { get; private set; }

        public int FailedInARow { get; private set; }

        /// <summary>Why the last load that failed did so; <c>null</c> if none failed.</summary>
        public string? LastFailure { get; private set; }

        public void Add(WarmOutcome outcome)
        {
            if (outcome is WarmOutcome.Stale)
            {
                Fail("The source failed, and the stale entry stays in the cache.");
                return;
            }

            lock (_lock)
            {
                Done++;
                Kept += outcome is WarmOutcome.Kept ? 1 : 0;
                Bypassed += outcome is WarmOutcome.Bypassed ? 1 : 0;
                FailedInARow = 0;
            }
        }

        public void Fail(string reason)
        {
            lock (_lock)
            {
                Failed++;
                FailedInARow++;
                LastFailure = reason;
            }
        }

        public void Finish(DateTimeOffset now)
        {
            lock (_lock)
            {
                _finishedAt = now;
            }
        }

        public WarmingJob Of(WarmingJob job)
        {
            lock (_lock)
            {
                return job with { Done = Done, Kept = Kept, Failed = Failed, FinishedAt = _finishedAt };
            }
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information,
            "Warm-up of the cache {Cache}: {Done} of {Total} loaded, {Kept} kept, {Failed} failed")]
        public static partial void Warmed(ILogger log, string cache, int done, int total, int kept, int failed);

        [LoggerMessage(4, LogLevel.Warning,
            "Warm-up of the cache {Cache}: {Done} of {Total} loaded, {Kept} kept, {Failed} failed: {Reason}")]
        public static partial void NotAllKept(ILogger log, string cache, int done, int total, int kept, int failed, string reason);

        [LoggerMessage(2, LogLevel.Warning, "The cache {Cache} is not warmed: {Reason}")]
        public static partial void NotWarmed(ILogger log, string cache, string reason);

        [LoggerMessage(3, LogLevel.Warning, "How far the warming of the cache {Cache} is could not be said: {Reason}")]
        public static partial void NotSaid(ILogger log, string cache, string reason);
    }
}
