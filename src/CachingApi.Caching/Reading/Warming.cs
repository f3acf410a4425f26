using System.Text.Json;
using System.Text.Json.Serialization;
using System.Threading.Channels;
using CachingApi.Redis;

namespace CachingApi.Caching.Operations;

/// <summary>The progress of a warming job.</summary>
/// <param name="Cache">The name of the cache.</param>
/// <param name="Total">How many entries are to be loaded.</param>
public sealed record WarmingJob(
    string Id,
    string Cache,
    int Total,
    int Done,
    int Failed,
    DateTimeOffset StartedAt,
    DateTimeOffset? FinishedAt);

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

    /// <summary>How long a job outlives its process, for all who ask.</summary>
    private static readonly TimeSpan LeaseTtl = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan ReportEvery = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan ReportTtl = TimeSpan.FromHours(1);

    private readonly IEnumerable<Cache> _caches;
    private readonly RedisConnections _redis;
    private readonly TimeProvider _time;
    private readonly ILogger _log;

    private readonly Channel<(Cache Cache, IReadOnlyList<string> Keys, WarmingJob Job)> _jobs =
        Channel.CreateUnbounded<(Cache, IReadOnlyList<string>, WarmingJob)>();

    internal Warming(IEnumerable<Cache> caches, RedisConnections redis, TimeProvider time, ILogger<Warming> log) =>
        (_caches, _redis, _time, _log) = (caches, redis, time, log);

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
            await LoadAsync(cache, await cache.TopKeysAsync(cache.Warming!.AtStart, stop), new Progress(), stop);
        }
#pragma warning disable CA1031 // No caller waits for it, and the service must not end with it: a read loads the entry anyway.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Log.NotWarmed(_log, cache.Name, error.Message);
        }
    }

    private async Task RunAsync(Cache cache, IReadOnlyList<string> keys, WarmingJob job, CancellationToken stop)
    {
        var progress = new Progress();
        var loading = LoadAsync(cache, keys, progress, stop);
        while (await Task.WhenAny(loading, Task.Delay(ReportEvery, CancellationToken.None)) != loading)
        {
            await SayAsync(progress.Of(job), LeaseTtl);
        }

        var finished = loading.IsCompletedSuccessfully ? _time.GetUtcNow() : (DateTimeOffset?)null;
        await SayAsync(progress.Of(job) with { FinishedAt = finished }, TimeSpan.Zero);
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

    private async Task LoadAsync(Cache cache, IReadOnlyList<string> keys, Progress progress, CancellationToken stop)
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
                        await cache.WarmAsync(key, cancel);
                        progress.Succeeded();
                    }
#pragma warning disable CA1031 // It is counted, and said once at the end.
                    catch (Exception error) when (!cancel.IsCancellationRequested)
#pragma warning restore CA1031
                    {
                        if (progress.Failed(error) >= MaxFailuresInARow)
                        {
                            await enough.CancelAsync();
                        }
                    }
                });
        }
        catch (OperationCanceledException) when (!stop.IsCancellationRequested)
        {
            // The source is away; the number of those that were loaded says so.
        }

        Log.Warmed(_log, cache.Name, progress.Done, keys.Count, progress.LastFailure);
    }

    private async Task<string?> HolderAsync(string cache, CancellationToken cancel) =>
        await _redis.OnStateAsync(state => state.StringGetAsync(LeaseKey(cache)), cancel);

    private Task<bool> ReportAsync(WarmingJob job, CancellationToken cancel) => _redis.OnStateAsync(
        state => state.StringSetAsync(JobKey(job.Id), JsonSerializer.Serialize(job, WarmingJson.Default.WarmingJob), ReportTtl), cancel);

    private string LeaseKey(string cache) => $"{_redis.KeyPrefix}:warming:{cache}";

    private string JobKey(string id) => $"{_redis.KeyPrefix}:warming-job:{id}";

    /// <summary>What the loads of a job have come to so far.</summary>
    private sealed class Progress
    {
        private int _done;
        private int _failed;
        private int _failedInARow;

        public int Done => Volatile.Read(ref _done);

        /// <summary>Why the last of those failed that did.</summary>
        public string LastFailure { get; private set; } = "none failed";

        public void Succeeded()
        {
            Interlocked.Increment(ref _done);
            Volatile.Write(ref _failedInARow, 0);
        }

        /// <summary>Returns how many have failed in a row.</summary>
        public int Failed(Exception error)
        {
            Interlocked.Increment(ref _failed);
            LastFailure = error.Message;
            return Interlocked.Increment(ref _failedInARow);
        }

        public WarmingJob Of(WarmingJob job) => job with { Done = Done, Failed = Volatile.Read(ref _failed) };
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "The cache {Cache} is warm: {Done} of {Total} loaded, {Trouble}")]
        public static partial void Warmed(ILogger log, string cache, int done, int total, string trouble);

        [LoggerMessage(2, LogLevel.Warning, "The cache {Cache} is not warmed: {Reason}")]
        public static partial void NotWarmed(ILogger log, string cache, string reason);

        [LoggerMessage(3, LogLevel.Warning, "How far the warming of the cache {Cache} is could not be said: {Reason}")]
        public static partial void NotSaid(ILogger log, string cache, string reason);
    }
}
