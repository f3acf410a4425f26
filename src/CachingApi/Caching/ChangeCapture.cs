using System.Diagnostics.Metrics;
using System.Threading.Channels;
using CachingApi.Storage;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>A table whose changes, whoever made them, void what is cached of it.</summary>
/// <param name="VoidAsync">Voids what is cached of one row.</param>
/// <param name="VoidAllAsync">Voids what is cached of all rows.</param>
/// <param name="VoidDerivedAsync">Voids what is made of many rows, such as lists; called once for many changes.</param>
internal sealed record FollowedTable(
    string Name, Func<RowChange, CancellationToken, Task> VoidAsync, Func<CancellationToken, Task> VoidAllAsync, Func<CancellationToken, Task> VoidDerivedAsync);

/// <summary>
/// Change capture: one process at a time follows what the database has committed and voids what is cached of it. So a writer
/// that died between its commit and the invalidation, a lost message or a change by hand leave nothing stale.
/// </summary>
/// <remarks>
/// 1. a writer commits version 2 and dies; Redis and the memory of every process go on with version 1;
/// 2. the process that follows reads the commit from the slot, puts a tombstone of version 2 in place and publishes it;
/// 3. if that one dies before it has confirmed, the next one begins at the same commit: doing it twice harms nothing.
/// </remarks>
internal sealed partial class ChangeCapture : BackgroundService
{
    /// <summary>More rows than this at once void all that is cached of their table.</summary>
    private const int MaxRows = 5000;

    private const int Parallelism = 16;

    private static readonly TimeSpan LookEvery = TimeSpan.FromSeconds(1);

    private readonly ChangeSource _source;
    private readonly FollowedTable[] _tables;
    private readonly Redis _redis;
    private readonly RedisTier _tier;
    private readonly string _begun;
    private readonly OwedInvalidations _owed;
    private readonly bool _wanted;
    private readonly ILogger _log;
    private readonly Counter<long> _changes;
    private volatile bool _follows;
    private string? _trouble;

    public ChangeCapture(
        ChangeSource source,
        IEnumerable<FollowedTable> tables,
        Redis redis,
        RedisTier tier,
        OwedInvalidations owed,
        IOptions<DatabaseOptions> options,
        IMeterFactory meters,
        ILogger<ChangeCapture> log)
    {
        (_source, _tables, _redis, _tier, _owed) = (source, [.. tables], redis, tier, owed);
        (_wanted, _begun, _log) = (options.Value.ChangeCapture, $"{redis.KeyPrefix}:change-capture", log);
        var meter = meters.Create(CacheMetrics.MeterName);
        _changes = meter.CreateCounter<long>("change_capture.changes", description: "Committed changes of rows that caches were told of, by table.");
        meter.CreateObservableGauge("change_capture.follows", () => _follows ? 1 : 0, description: "1 in the process that follows the database.");
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        if (!_wanted)
        {
            return;
        }

        using var timer = new PeriodicTimer(LookEvery);
        do
        {
            try
            {
                var slot = await _source.SlotAsync(stoppingToken);
                if (!slot.Possible)
                {
                    Log.NotPossible(_log);
                    return;
                }

                // Who does not reach Redis leaves the slot to who does.
                if (_tier.IsTrusted)
                {
                    await FollowAsync(slot, stoppingToken);
                }
            }
#pragma warning disable CA1031 // Whatever it is, to follow again from the position that was confirmed is the remedy.
            catch (Exception error) when (!stoppingToken.IsCancellationRequested)
#pragma warning restore CA1031
            {
                Trouble($"{error.GetType().Name}: {error.Message}");
            }
            finally
            {
                _follows = false;
            }
        }
        while (await timer.WaitForNextTickAsync(stoppingToken));
    }

    private async Task FollowAsync(ChangeSlot slot, CancellationToken cancel)
    {
        // Written down in Redis, for a process that dies between the making of a slot and the dropping of what it may have missed.
        if (slot.IsMissing)
        {
            await _redis.Cache.KeyDeleteAsync(_begun).WaitAsync(cancel);
        }

        await using var changes = await _source.TryOpenAsync(slot, cancel);
        if (changes is null)
        {
            return;
        }

        if (!await _redis.Cache.KeyExistsAsync(_begun).WaitAsync(cancel))
        {
            if (slot.Lost == true)
            {
                Log.Lost(_log, slot.Name);
            }

            Log.Dropped(_log);
            await Task.WhenAll(_tables.SelectMany(table => new[] { table.VoidAllAsync(cancel), table.VoidDerivedAsync(cancel) }));
            await UntilRedisKnowsAsync(cancel);
            await _redis.Cache.StringSetAsync(_begun, "1").WaitAsync(cancel);
        }

        var queue = Channel.CreateBounded<RowChange>(2 * MaxRows);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        var reading = ReadAsync(changes, queue.Writer, stop.Token);
        try
        {
            await ApplyAsync(changes, queue.Reader, cancel);
        }
        finally
        {
            await stop.CancelAsync();
            await reading;
        }
    }

    private static async Task ReadAsync(ChangeStream changes, ChannelWriter<RowChange> queue, CancellationToken cancel)
    {
        try
        {
            await foreach (var change in changes.ReadAsync(cancel))
            {
                await queue.WriteAsync(change, cancel);
            }

            queue.Complete();
        }
#pragma warning disable CA1031 // It goes to the reader of the queue.
        catch (Exception error)
#pragma warning restore CA1031
        {
            queue.Complete(error);
        }
    }

    private async Task ApplyAsync(ChangeStream changes, ChannelReader<RowChange> queue, CancellationToken cancel)
    {
        Task<bool>? more = null;
        while (true)
        {
            // Also without a change: the position moves on with what is written elsewhere on the server.
            more ??= queue.WaitToReadAsync(cancel).AsTask();
            await Task.WhenAny(more, Task.Delay(LookEvery, cancel));
            if (more.IsCompleted && !await more)
            {
                return;
            }

            // The position first: every change up to it is in the queue by now.
            var received = changes.Received;
            var batch = new Dictionary<(string Table, string? Id), RowChange>();
            for (var waiting = queue.Count; waiting > 0 && queue.TryRead(out var change); waiting--)
            {
                batch[(change.Table, change.Id)] = change;
            }

            await VoidAsync(batch.Values, cancel);
            await UntilRedisKnowsAsync(cancel);
            changes.Confirm(received);
            if (more.IsCompleted)
            {
                more = null;
            }

            if (!_follows)
            {
                _follows = true;
                _trouble = null;
                Log.Follows(_log);
            }
        }
    }

    private async Task VoidAsync(IReadOnlyCollection<RowChange> batch, CancellationToken cancel)
    {
        foreach (var table in _tables)
        {
            var rows = batch.Where(change => change.Table == table.Name).ToArray();
            if (rows.Length == 0)
            {
                continue;
            }

            _changes.Add(rows.Length, new KeyValuePair<string, object?>("table", table.Name));
            if (rows.Length > MaxRows || rows.Any(row => row.Id is null))
            {
                await table.VoidAllAsync(cancel);
            }
            else
            {
                await Parallel.ForEachAsync(
                    rows, new ParallelOptions { MaxDegreeOfParallelism = Parallelism, CancellationToken = cancel },
                    async (row, stop) => await table.VoidAsync(row, stop));
            }

            await table.VoidDerivedAsync(cancel);
        }
    }

    /// <summary>What this process owes Redis would be lost with it: the slot remembers it better.</summary>
    private async Task UntilRedisKnowsAsync(CancellationToken cancel)
    {
        for (var looks = 0; !_owed.IsEmpty; looks++)
        {
            if (looks == 50)
            {
                throw new UnavailableException("Redis");
            }

            await Task.Delay(TimeSpan.FromMilliseconds(100), cancel);
        }
    }

    private void Trouble(string reason)
    {
        if (reason != _trouble)
        {
            Log.DoesNotFollow(_log, reason);
        }

        _trouble = reason;
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "PostgreSQL does not run with wal_level=logical: what is changed by other hands than this service's stays cached until its TTL ends")]
        public static partial void NotPossible(ILogger log);

        [LoggerMessage(2, LogLevel.Information, "This process follows the changes of the database")]
        public static partial void Follows(ILogger log);

        [LoggerMessage(3, LogLevel.Warning, "The slot {Slot} had to give up changes that nobody had read: max_slot_wal_keep_size was too small for them")]
        public static partial void Lost(ILogger log, string slot);

        [LoggerMessage(4, LogLevel.Warning, "The changes of the database cannot be followed at the moment: {Reason}")]
        public static partial void DoesNotFollow(ILogger log, string reason);

        [LoggerMessage(5, LogLevel.Information, "What was changed until now is not known: all that is cached is dropped")]
        public static partial void Dropped(ILogger log);
    }
}
