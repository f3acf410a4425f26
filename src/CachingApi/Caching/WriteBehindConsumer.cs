using CachingApi.Storage;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

internal enum WriteOutcome
{
    /// <summary>The row has it now, or had it already.</summary>
    Persisted,

    /// <summary>The row has a fence that the write may not overwrite: see <see cref="WriteBehindQueue.ReacceptAsync"/>.</summary>
    Fenced,

    /// <summary>Another transaction has the row locked, or has just changed it: the write is tried again soon.</summary>
    Again,

    /// <summary>The database refuses it as things are: it may be tried again.</summary>
    Refused,

    /// <summary>The database will never take it: there is no such thing any more.</summary>
    Impossible,
}

/// <param name="Version">The version that the thing has now.</param>
/// <param name="Reason">Why it was refused.</param>
internal readonly record struct WriteResult(WriteOutcome Outcome, long Version, string Reason = "")
{
    /// <summary>The row's fence, if that keeps the write out.</summary>
    public long Fence { get; init; }
}

/// <summary>What a feature lets be written behind.</summary>
/// <param name="RequiredBy">The setting that asks for it, if one does: then the start fails where it is not safe.</param>
/// <param name="PersistAsync">
/// Persists writes, one of each entity, in one statement, and invalidates what the cache holds of those before; the results are in the
/// same order. Throws if the database is away.
/// </param>
/// <param name="RejectAsync">
/// Gives up a write: the thing goes on as the database has it, under a version later than the write's, which is returned.
/// </param>
/// <param name="VoidAsync">Voids what the cache holds of a thing, up to a version.</param>
/// <param name="RetryAsync">Takes a dead letter's value as a new write; <c>false</c> where there is no such thing.</param>
internal sealed record WriteBehindTarget(
    string? RequiredBy,
    Func<IReadOnlyList<QueuedWrite>, CancellationToken, Task<IReadOnlyList<WriteResult>>> PersistAsync,
    Func<QueuedWrite, CancellationToken, Task<long>> RejectAsync,
    Func<QueuedWrite, long, CancellationToken, Task> VoidAsync,
    Func<QueuedWrite, CancellationToken, Task<bool>> RetryAsync);

/// <summary>
/// The other end of write-behind: takes writes off the queue in batches, folds several of one thing into the last, persists a
/// batch in one statement, and acknowledges it after the commit. Every process has one; what a dead process has left is
/// claimed by the others.
/// </summary>
/// <remarks>
/// Killed at any point, nothing is lost or done twice: 1. a batch is committed; 2. the process dies before it acknowledges it;
/// 3. another one claims the batch, and finds that the rows have its tokens already.
/// </remarks>
internal sealed partial class WriteBehindConsumer(
    WriteBehind writeBehind,
    WriteBehindQueue queue,
    DiskBarrier disk,
    WriteBehindTarget target,
    IOptions<WriteBehindOptions> options,
    WriteBehindMetrics metrics,
    TimeProvider time,
    ILogger<WriteBehindConsumer> log) : BackgroundService
{
    /// <summary>How often it looks for what other processes have put into the queue, and have not come to.</summary>
    private static readonly TimeSpan LookEvery = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan InspectEvery = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan DrainFor = TimeSpan.FromSeconds(5);

    /// <summary>After how long a write is tried again whose row was locked.</summary>
    private static readonly TimeSpan LockedPause = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan MaxPause = TimeSpan.FromSeconds(2);

    /// <summary>Writes that were taken and are not done with.</summary>
    private readonly Dictionary<long, Held> _held = [];

    private long? _inspected;
    private string? _trouble;

    private int BatchSize => options.Value.BatchSize;

    public override async Task StartAsync(CancellationToken cancellationToken)
    {
        try
        {
            await InspectAsync(cancellationToken);
        }
        catch (UnavailableException) when (target.RequiredBy is null)
        {
            // It is looked at again as soon as Redis answers, and until then nothing is written behind.
        }

        if (target.RequiredBy is { } setting && writeBehind.Refusal is { } refusal)
        {
            throw new InvalidOperationException($"{setting} cannot be write-behind: {refusal}.");
        }

        await base.StartAsync(cancellationToken);
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var pause = TimeSpan.Zero;
        while (!stoppingToken.IsCancellationRequested)
        {
            try
            {
                if (pause > TimeSpan.Zero)
                {
                    await Task.Delay(pause, stoppingToken);
                }

                await InspectAsync(stoppingToken);
                if (!await RoundAsync(stoppingToken))
                {
                    await queue.SignalledAsync(LookEvery, stoppingToken);
                }

                (pause, _trouble) = (TimeSpan.Zero, null);
            }
            catch (OperationCanceledException) when (stoppingToken.IsCancellationRequested)
            {
                break;
            }
#pragma warning disable CA1031 // Whatever it is, it is logged, and what was taken is tried again: the consumer goes on.
            catch (Exception error)
#pragma warning restore CA1031
            {
                _inspected = null;
                pause = TimeSpan.FromTicks(Math.Clamp(pause.Ticks * 2, TimeSpan.FromMilliseconds(100).Ticks, MaxPause.Ticks));
                Trouble(error);
            }
        }

        await DrainAsync();
    }

    /// <summary>Before the process ends: what can be persisted still, is. The rest is the other processes', or the next one's.</summary>
    private async Task DrainAsync()
    {
        using var stop = new CancellationTokenSource(DrainFor, time);
        try
        {
            while (true)
            {
                var worked = await RoundAsync(stop.Token);
                if (!worked && !_held.Values.Any(held => held.Refusals == 0))
                {
                    break;
                }

                if (!worked)
                {
                    await Task.Delay(LockedPause, time, stop.Token); // a row was locked
                }
            }
        }
#pragma warning disable CA1031 // It is logged, and nothing is lost: it stays in the queue.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Log.NotDrained(log, error.GetType().Name);
        }
    }

    /// <summary>One batch; <c>false</c> if there is nothing to do.</summary>
    private async Task<bool> RoundAsync(CancellationToken cancel)
    {
        var now = time.GetUtcNow();
        await ReadAsync(now, cancel);
        var batch = LatestDue(now);
        if (batch.Length == 0)
        {
            return false;
        }

        metrics.Writes("retried", batch.Count(held => held.Tries++ > 0));
        var results = await target.PersistAsync([.. batch.Select(held => held.Write)], cancel);
        await FinishAsync([.. batch.Zip(results).Where(done => done.Second.Outcome is WriteOutcome.Persisted)], cancel);
        foreach (var (held, result) in batch.Zip(results))
        {
            await HandleAsync(held, result, now, cancel);
        }

        return true;
    }

    /// <summary>Takes new writes off the queue, unless a batch of them is due already. Those that wait for their next try do not count.</summary>
    private async Task ReadAsync(DateTimeOffset now, CancellationToken cancel)
    {
        var room = BatchSize - _held.Values.Count(held => held.Due <= now);
        if (room > 0)
        {
            foreach (var write in await queue.ReadAsync(room, cancel))
            {
                _held[write.Token] = new(write) { Due = now };
            }
        }
    }

    /// <summary>
    /// Of each entity the latest write that is due: when it is persisted, those before it are done with. One that was refused is not due for
    /// a while, so that those before it come first.
    /// </summary>
    private Held[] LatestDue(DateTimeOffset now) =>
    [
        .. _held.Values.Where(held => held.Due <= now).GroupBy(held => held.Write.Id).Take(BatchSize)
            .Select(writes => writes.MaxBy(held => held.Write.Version)!),
    ];

    /// <summary>Takes writes off the queue that the rows have, or that later ones have superseded, and with them those before.</summary>
    private async Task FinishAsync(IReadOnlyList<(Held Held, WriteResult Result)> done, CancellationToken cancel)
    {
        if (done.Count == 0)
        {
            return;
        }

        var ofEntity = _held.Values.ToLookup(held => held.Write.Id);
        var finished = done.SelectMany(last => ofEntity[last.Held.Write.Id]
            .Where(held => held.Write.Version <= last.Held.Write.Version)
            .Select(held => new FinishedWrite(held.Write, last.Result.Version))).ToArray();
        await queue.FinishAsync(finished, cancel);
        foreach (var write in finished)
        {
            _held.Remove(write.Write.Token);
        }

        var persisted = done.Count(last => last.Result.Outcome is WriteOutcome.Persisted);
        metrics.Writes("persisted", persisted);
        metrics.Writes("folded", finished.Length - persisted);
    }

    /// <summary>What becomes of a write that was not persisted.</summary>
    private async Task HandleAsync(Held held, WriteResult result, DateTimeOffset now, CancellationToken cancel)
    {
        switch (result.Outcome)
        {
            case WriteOutcome.Fenced:
                await HandleFencedAsync(held, result, cancel);
                break;
            case WriteOutcome.Again:
                held.Due = now + LockedPause;
                break;
            case WriteOutcome.Refused when held.Refusals + 1 < options.Value.MaxAttempts:
                held.Due = now + TimeSpan.FromMilliseconds(100 << held.Refusals);
                held.Refusals++;
                break;
            case WriteOutcome.Refused or WriteOutcome.Impossible:
                await GiveUpAsync(held.Write, result.Reason, cancel);
                break;
        }
    }

    private async Task HandleFencedAsync(Held held, WriteResult result, CancellationToken cancel)
    {
        var write = held.Write;
        switch (await queue.ReacceptAsync(write, result.Fence, result.Version, cancel))
        {
            case FencedWrite.Superseded:
                await FinishAsync([(held, result)], cancel);
                break;
            case FencedWrite.Unknown:
                await GiveUpAsync(write, "The row has a later version, under a fence that the state server did not issue.", cancel);
                break;
            case FencedWrite.Reaccepted:
                Log.Reaccepted(log, write.Id, result.Fence, write.Version);
                metrics.Writes("retried", 1);
                _held.Remove(write.Token);
                break;
            case FencedWrite.Gone:
                _held.Remove(write.Token);
                break;
        }
    }

    /// <remarks>The row's version first: what has been shown of the write is then older than the truth, whatever happens next.</remarks>
    private async Task GiveUpAsync(QueuedWrite write, string reason, CancellationToken cancel)
    {
        var version = await target.RejectAsync(write, cancel);
        await queue.FinishAsync([new(write, version, reason)], cancel);
        _held.Remove(write.Token);
        await target.VoidAsync(write, version, cancel);
        metrics.Writes("dead", 1);
        Log.Dead(log, write.Id, write.Version, reason);
    }

    /// <summary>Once a second: what a dead process has left, how long the queue is, and whether it is safe still.</summary>
    private async Task InspectAsync(CancellationToken cancel)
    {
        if (_inspected is { } last && time.GetElapsedTime(last) < InspectEvery)
        {
            return;
        }

        await queue.CreateAsync(cancel);
        foreach (var write in await queue.ClaimAsync(BatchSize, cancel))
        {
            _held.TryAdd(write.Token, new(write) { Due = time.GetUtcNow() });
        }

        metrics.Seen = await queue.StateAsync(cancel);
        await disk.InspectAsync(cancel);
        Judge(await queue.EvictionPolicyAsync(cancel));
        _inspected = time.GetTimestamp();
    }

    private void Judge(string? evictionPolicy)
    {
        var refusal = evictionPolicy switch
        {
            null => "Redis does not tell its maxmemory-policy",
            _ when evictionPolicy.StartsWith("allkeys-", StringComparison.Ordinal) =>
                $"the maxmemory-policy of Redis is {evictionPolicy}, by which it may evict writes that were acknowledged; "
                + "noeviction or volatile-* is needed, on a Redis of its own perhaps (ConnectionStrings:RedisState)",
            _ => null,
        };
        if (refusal is not null && refusal != writeBehind.Refusal)
        {
            Log.Refused(log, refusal);
        }

        writeBehind.Refusal = refusal;
    }

    private void Trouble(Exception error)
    {
        if (_trouble != error.Message)
        {
            Log.Failed(log, error.GetType().Name, error.Message);
        }

        _trouble = error.Message;
    }

    private sealed class Held(QueuedWrite write)
    {
        public QueuedWrite Write => write;

        public DateTimeOffset Due { get; set; }

        /// <summary>How often it was tried.</summary>
        public int Tries { get; set; }

        /// <summary>How often the database refused it.</summary>
        public int Refusals { get; set; }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "Nothing is written behind: {Reason}")]
        public static partial void Refused(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Warning, "What was written behind waits: {Error}: {Reason}")]
        public static partial void Failed(ILogger log, string error, string reason);

        [LoggerMessage(3, LogLevel.Error, "The write of version {Version} of {Id} could not be persisted and is a dead letter now: {Reason}")]
        public static partial void Dead(ILogger log, string id, long version, string reason);

        [LoggerMessage(5, LogLevel.Warning, "The row of {Id} had the fence {Fence}, which the state server did not issue; the write of version {Version} was accepted anew")]
        public static partial void Reaccepted(ILogger log, string id, long fence, long version);

        [LoggerMessage(4, LogLevel.Warning, "What is in the queue of write-behind at the end stays there for others: {Error}")]
        public static partial void NotDrained(ILogger log, string error);
    }
}
