using CachingApi.Caching.Operations;
using CachingApi.Redis;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// The consumer of write-behind: takes writes off the queue in batches, folds several writes of one entity into the last, persists a
/// batch in one statement, and acknowledges it after the commit. Every process has one; if a process dies, the others claim its writes.
/// </summary>
/// <remarks>
/// If a process is killed at any point, no write is lost or applied twice: 1. a batch is committed; 2. the process dies before it
/// acknowledges the batch; 3. another process claims the batch, and finds that the rows already have its tokens.
/// </remarks>
internal sealed partial class WriteBehindConsumer(
    WriteBehind writeBehind,
    WriteBehindTarget target,
    IOptions<WriteBehindOptions> options,
    WriteBehindMetrics metrics,
    TimeProvider time,
    ILogger<WriteBehindConsumer> log) : BackgroundService
{
    /// <summary>How often it polls for writes that other processes have queued and not processed.</summary>
    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan InspectInterval = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan DrainFor = TimeSpan.FromSeconds(5);

    /// <summary>The pause before a write whose row was locked is tried again.</summary>
    private static readonly TimeSpan LockedPause = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan MaxPause = TimeSpan.FromSeconds(2);

    private readonly WriteBehindQueue _queue = writeBehind.Queue;

    /// <summary>Writes that this consumer has taken and not finished.</summary>
    private readonly Dictionary<long, Held> _held = [];

    private long? _inspected;
    private string? _lastLogged;

    private int BatchSize => options.Value.BatchSize;

    public override async Task StartAsync(CancellationToken cancellationToken)
    {
        if (!writeBehind.IsPossible)
        {
            return;
        }

        try
        {
            await InspectAsync(cancellationToken);
        }
        catch (UnavailableException) when (writeBehind.RequiredBy is null)
        {
            // The policy is checked again as soon as Redis answers; until then, write-behind is disabled.
        }

        if (writeBehind.RequiredBy is { } setting && writeBehind.DisabledReason is { } refusal)
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
                    await _queue.SignalledAsync(PollInterval, stoppingToken);
                }

                (pause, _lastLogged) = (TimeSpan.Zero, null);
            }
            catch (OperationCanceledException) when (stoppingToken.IsCancellationRequested)
            {
                break;
            }
#pragma warning disable CA1031 // Any failure is logged, and the taken writes are tried again: the consumer goes on.
            catch (Exception error)
#pragma warning restore CA1031
            {
                _inspected = null;
                pause = TimeSpan.FromTicks(Math.Clamp(pause.Ticks * 2, TimeSpan.FromMilliseconds(100).Ticks, MaxPause.Ticks));
                LogOnce(error);
            }
        }

        await DrainAsync();
    }

    /// <summary>
    /// Before the process ends, the consumer persists the writes that it can. Other processes, or the next one, take the rest.
    /// </summary>
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
#pragma warning disable CA1031 // The failure is logged, and no write is lost: all stay in the queue.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Log.NotDrained(log, error.GetType().Name);
        }
    }

    /// <summary>Processes one batch; <c>false</c> if there is nothing to do.</summary>
    private async Task<bool> RoundAsync(CancellationToken cancel)
    {
        var now = time.GetUtcNow();
        await ReadAsync(now);
        var batch = LatestDue(now);
        if (batch.Length == 0)
        {
            return false;
        }

        metrics.Writes(_queue.Cache, "retried", batch.Count(held => held.Tries++ > 0));
        var results = await target.PersistAsync([.. batch.Select(held => held.Write)], cancel);
        await FinishAsync([.. batch.Zip(results).Where(done => done.Second.Outcome is PersistOutcome.Persisted)], cancel);
        foreach (var (held, result) in batch.Zip(results))
        {
            await HandleAsync(held, result, now, cancel);
        }

        return true;
    }

    /// <summary>
    /// Takes new writes off the queue, unless a full batch is already due. Writes that wait for their next attempt do not count.
    /// </summary>
    /// <remarks>
    /// It is not cancelled when the process stops: Redis may already have given this consumer the writes, and without the reply the
    /// consumer would not drain them.
    /// </remarks>
    private async Task ReadAsync(DateTimeOffset now)
    {
        var room = BatchSize - _held.Values.Count(held => held.Due <= now);
        if (room > 0)
        {
            foreach (var write in await _queue.ReadAsync(room, CancellationToken.None))
            {
                _held[write.Token] = new(write) { Due = now };
            }
        }
    }

    /// <summary>
    /// The latest due write of each entity: when it is persisted, the earlier ones are finished, too. A refused write is not due for a
    /// while, so that the earlier ones come first.
    /// </summary>
    private Held[] LatestDue(DateTimeOffset now) =>
    [
        .. _held.Values.Where(held => held.Due <= now).GroupBy(held => held.Write.Id).Take(BatchSize)
            .Select(writes => writes.MaxBy(held => held.Write.Version)!),
    ];

    /// <summary>
    /// Removes from the queue the writes that are in the rows or superseded by later ones, and all earlier writes with them.
    /// </summary>
    private async Task FinishAsync(IReadOnlyList<(Held Held, PersistResult Result)> done, CancellationToken cancel)
    {
        if (done.Count == 0)
        {
            return;
        }

        var ofEntity = _held.Values.ToLookup(held => held.Write.Id);
        var finished = done.SelectMany(last => ofEntity[last.Held.Write.Id]
            .Where(held => held.Write.Version <= last.Held.Write.Version)
            .Select(held => new FinishedWrite(held.Write, last.Result.Version))).ToArray();
        await _queue.FinishAsync(finished, cancel);
        foreach (var write in finished)
        {
            _held.Remove(write.Write.Token);
        }

        var persisted = done.Count(last => last.Result.Outcome is PersistOutcome.Persisted);
        metrics.Writes(_queue.Cache, "persisted", persisted);
        metrics.Writes(_queue.Cache, "folded", finished.Length - persisted);
    }

    /// <summary>Handles a write that was not persisted.</summary>
    private async Task HandleAsync(Held held, PersistResult result, DateTimeOffset now, CancellationToken cancel)
    {
        switch (result.Outcome)
        {
            case PersistOutcome.Fenced:
                await HandleFencedAsync(held, result, cancel);
                break;
            case PersistOutcome.Again:
                held.Due = now + LockedPause;
                break;
            case PersistOutcome.Refused when held.Refusals + 1 < options.Value.MaxAttempts:
                held.Due = now + TimeSpan.FromMilliseconds(100 << held.Refusals);
                held.Refusals++;
                break;
            case PersistOutcome.Refused or PersistOutcome.Impossible:
                await GiveUpAsync(held.Write, result.Reason, cancel);
                break;
        }
    }

    private async Task HandleFencedAsync(Held held, PersistResult result, CancellationToken cancel)
    {
        var write = held.Write;
        switch (await _queue.ReacceptAsync(write, result.Fence, result.Version, cancel))
        {
            case FencedWrite.Superseded:
                await FinishAsync([(held, result)], cancel);
                break;
            case FencedWrite.Persisted:
                await FinishAsync([(held, result with { Outcome = PersistOutcome.Persisted })], cancel);
                break;
            case FencedWrite.Unknown:
                var reason = result.Fence == write.Token
                    ? "The database refused the change earlier."
                    : "The row has a later version, under a fence that the state server did not issue.";
                await GiveUpAsync(write, reason, cancel);
                break;
            case FencedWrite.Reaccepted:
                Log.Reaccepted(log, write.Id, result.Fence, write.Version);
                metrics.Writes(_queue.Cache, "retried", 1);
                _held.Remove(write.Token);
                break;
            case FencedWrite.Gone:
                _held.Remove(write.Token);
                break;
        }
    }

    /// <remarks>
    /// The row gets its later version first, so that the served values of the write are older than the row from then on. The write leaves
    /// the queue last, so if this process is killed, another one invalidates the entry.
    /// </remarks>
    private async Task GiveUpAsync(QueuedWrite write, string reason, CancellationToken cancel)
    {
        await _queue.GiveUpAsync(write, await target.RowAsync(write.Id, cancel), cancel);
        var revision = await target.BumpVersionAsync(write, cancel);
        await target.InvalidateAsync(write, revision, cancel);
        var isDead = await _queue.FinishAsync([new(write, revision.Version, reason)], cancel) > 0;
        _held.Remove(write.Token);
        metrics.Writes(_queue.Cache, isDead ? "dead" : "folded", 1); // the deletion of its entity is a later write
        if (isDead)
        {
            Log.Dead(log, write.Id, write.Version, reason);
        }
    }

    /// <summary>Once a second: claims the writes of dead processes, measures the queue, and checks that Redis cannot evict it.</summary>
    private async Task InspectAsync(CancellationToken cancel)
    {
        if (_inspected is { } last && time.GetElapsedTime(last) < InspectInterval)
        {
            return;
        }

        await _queue.CreateAsync(cancel);
        foreach (var write in await _queue.ClaimAsync(BatchSize, cancel))
        {
            _held.TryAdd(write.Token, new(write) { Due = time.GetUtcNow() });
        }

        metrics.Seen[_queue.Cache] = await _queue.StateAsync(cancel);
        await writeBehind.Barrier.InspectAsync(cancel);
        CheckEvictionPolicy(await _queue.EvictionPolicyAsync(cancel));
        _inspected = time.GetTimestamp();
    }

    private void CheckEvictionPolicy(string? evictionPolicy)
    {
        var refusal = evictionPolicy switch
        {
            null => "Redis does not report its maxmemory-policy",
            _ when evictionPolicy.StartsWith("allkeys-", StringComparison.Ordinal) =>
                $"the maxmemory-policy of Redis is {evictionPolicy}, so Redis may evict acknowledged writes; "
                + "set it to noeviction or volatile-*, or configure a second Redis (ConnectionStrings:RedisState)",
            _ => null,
        };
        if (refusal is not null && refusal != writeBehind.DisabledReason)
        {
            Log.Refused(log, refusal);
        }

        writeBehind.DisabledReason = refusal;
    }

    private void LogOnce(Exception error)
    {
        if (_lastLogged != error.Message)
        {
            Log.Failed(log, error.GetType().Name, error.Message);
        }

        _lastLogged = error.Message;
    }

    private sealed class Held(QueuedWrite write)
    {
        public QueuedWrite Write => write;

        public DateTimeOffset Due { get; set; }

        /// <summary>The number of attempts.</summary>
        public int Tries { get; set; }

        /// <summary>The number of times that the database refused it.</summary>
        public int Refusals { get; set; }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "Write-behind is disabled: {Reason}")]
        public static partial void Refused(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Warning, "Queued writes cannot be persisted at the moment: {Error}: {Reason}")]
        public static partial void Failed(ILogger log, string error, string reason);

        [LoggerMessage(3, LogLevel.Error,
            "The write of version {Version} of {Id} could not be persisted and is a dead letter now: {Reason}")]
        public static partial void Dead(ILogger log, string id, long version, string reason);

        [LoggerMessage(5, LogLevel.Warning,
            "The row of {Id} had the fence {Fence}, which the state server did not issue; "
            + "the write of version {Version} was accepted anew")]
        public static partial void Reaccepted(ILogger log, string id, long fence, long version);

        [LoggerMessage(4, LogLevel.Warning, "Queued writes stay in the queue for other processes: {Error}")]
        public static partial void NotDrained(ILogger log, string error);
    }
}
