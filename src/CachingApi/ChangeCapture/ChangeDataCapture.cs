using System.Diagnostics.Metrics;
using System.Threading.Channels;
using CachingApi.Caching.Operations;
using CachingApi.Storage;
using Microsoft.Extensions.Options;
using Npgsql;

namespace CachingApi.ChangeCapture;

/// <summary>
/// Change data capture: one process at a time reads the committed changes of the database and invalidates the cached entries. So no entry
/// stays stale after a writer died between its commit and the invalidation, after a lost message, or after a change made in psql.
/// </summary>
/// <remarks>
/// 1. a writer commits version 2 and dies; Redis and the memory of every process still have version 1;
/// 2. the leader reads the commit from the slot, sets a tombstone of version 2 and publishes it;
/// 3. if the leader dies before it has confirmed the position, the next leader begins at the same commit: it may repeat an invalidation.
/// Every shard of Redis keeps the position up to which it has the changes. The leader writes it before it confirms the slot. If that
/// position is behind the slot (an old snapshot, a new slot, another Redis) or of another timeline (a standby was promoted and commits
/// were lost), Redis has missed changes that will not come again. Then all caches of the tables are cleared once.
/// </remarks>
internal sealed partial class ChangeDataCapture : BackgroundService
{
    /// <summary>If more rows than this change at once, the whole cache of their table is cleared.</summary>
    private const int MaxRows = 5000;

    private const int Parallelism = 16;

    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(250);

    /// <summary>For how long changes are collected, so that the writers' own invalidations come first and need no repetition.</summary>
    private static readonly TimeSpan Collect = TimeSpan.FromMilliseconds(25);

    private readonly ChangeSource _source;
    private readonly TrackedTable[] _tables;
    private readonly SourceChanges _caches;
    private readonly bool _wanted;
    private readonly ILogger _log;
    private readonly Counter<long> _changes;
    private volatile bool _follows;
    private string? _lastLogged;

    public ChangeDataCapture(
        ChangeSource source,
        IEnumerable<TrackedTable> tables,
        SourceChanges caches,
        IOptions<DatabaseOptions> options,
        IMeterFactory meters,
        ILogger<ChangeDataCapture> log)
    {
        (_source, _tables, _caches) = (source, [.. tables], caches);
        (_wanted, _log) = (options.Value.ChangeCapture, log);
        var meter = meters.Create("CachingApi.ChangeCapture");
        _changes = meter.CreateCounter<long>(
            "change_capture.changes", description: "Committed row changes that were applied to the caches, by table.");
        meter.CreateObservableGauge(
            "change_capture.follows", () => _follows ? 1 : 0, description: "1 in the process that reads the changes of the database.");
    }

    /// <summary>Before any entry is served, it finds out whether a standby was promoted while no process ran.</summary>
    public override async Task StartAsync(CancellationToken cancellationToken)
    {
        if (_wanted)
        {
            try
            {
                var (system, timeline) = await _source.IdentifyAsync(cancellationToken);
                _caches.LearnIncarnation(system, timeline);
            }
            catch (NpgsqlException error)
            {
                LogOnce($"{error.GetType().Name}: {error.Message}");
            }
        }

        await base.StartAsync(cancellationToken);
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        if (!_wanted)
        {
            return;
        }

        var saidNotPossible = false;
        using var timer = new PeriodicTimer(PollInterval);
        do
        {
            try
            {
                var slot = await _source.SlotAsync(stoppingToken);
                if (!slot.Possible)
                {
                    if (!saidNotPossible)
                    {
                        Log.NotPossible(_log);
                    }

                    saidNotPossible = true; // until PostgreSQL is restarted with logical WAL
                }
                else if (_caches.CanApply)
                {
                    // A process that does not reach Redis leaves the slot to one that does.
                    saidNotPossible = false;
                    await FollowAsync(slot, stoppingToken);
                }
            }
#pragma warning disable CA1031 // After any failure, it reads again from the confirmed position.
            catch (Exception error) when (!stoppingToken.IsCancellationRequested)
#pragma warning restore CA1031
            {
                LogOnce($"{error.GetType().Name}: {error.Message}");
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
        await using var changes = await _source.TryOpenAsync(slot, cancel);
        if (changes is null)
        {
            return;
        }

        var confirmed = await _source.ConfirmedAsync(slot, cancel);
        if (!await CoversAsync(confirmed, cancel))
        {
            if (slot.Lost == true)
            {
                Log.Lost(_log, slot.Name);
            }

            Log.Dropped(_log);
            _caches.LearnIncarnation(confirmed.System, confirmed.Timeline);
            await Task.WhenAll(_tables.Select(table => table.Cache.ClearWithDependentsAsync(cancel)));
            await _caches.WaitForRedisAsync(cancel);
            await _caches.SetPositionAsync($"{confirmed}", cancel);
        }

        var queue = Channel.CreateBounded<RowChange>(2 * MaxRows);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        var reading = ReadAsync(changes, queue.Writer, stop.Token);
        try
        {
            await ApplyAsync(changes, queue.Reader, confirmed, cancel);
        }
        finally
        {
            await stop.CancelAsync();
            await reading;
        }
    }

    /// <summary>Whether every shard has the confirmed changes. If so, the shards' positions are set to the confirmed one.</summary>
    private async Task<bool> CoversAsync(ChangePosition confirmed, CancellationToken cancel)
    {
        var positions = await _caches.PositionsAsync(cancel);
        if (!positions.All(position => ChangePosition.Parse(position)?.Covers(confirmed) == true))
        {
            return false;
        }

        await _caches.SetPositionAsync($"{confirmed}", cancel);
        return true;
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
#pragma warning disable CA1031 // The reader of the queue receives the failure.
        catch (Exception error)
#pragma warning restore CA1031
        {
            queue.Complete(error);
        }
    }

    private async Task ApplyAsync(ChangeStream changes, ChannelReader<RowChange> queue, ChangePosition position, CancellationToken cancel)
    {
        Task<bool>? more = null;
        while (true)
        {
            // Also without a change: writes to other databases of the server move the position on.
            more ??= queue.WaitToReadAsync(cancel).AsTask();
            await Task.WhenAny(more, Task.Delay(PollInterval, cancel));
            if (more.IsCompleted)
            {
                if (!await more)
                {
                    return;
                }

                await Task.Delay(Collect, cancel);
            }

            // The position is read first: every change up to it is already in the queue.
            var received = changes.Received;
            await InvalidateAsync(Take(queue), cancel);
            await _caches.WaitForRedisAsync(cancel);
            var to = position with { Lsn = Math.Max(position.Lsn, (ulong)received) };
            if (to != position)
            {
                await _caches.MovePositionAsync($"{position}", $"{to}", cancel);
                position = to;
            }

            changes.Confirm(received);
            if (more.IsCompleted)
            {
                more = null;
            }

            if (!_follows)
            {
                _follows = true;
                _lastLogged = null;
                Log.Follows(_log);
            }
        }
    }

    /// <summary>Empties the queue and returns the last change of each row.</summary>
    private static Dictionary<(string Table, string? Id), RowChange>.ValueCollection Take(ChannelReader<RowChange> queue)
    {
        var batch = new Dictionary<(string Table, string? Id), RowChange>();
        for (var waiting = queue.Count; waiting > 0 && queue.TryRead(out var change); waiting--)
        {
            batch[(change.Table, change.Id)] = change;
        }

        return batch.Values;
    }

    private async Task InvalidateAsync(IReadOnlyCollection<RowChange> batch, CancellationToken cancel)
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
                await table.Cache.ClearWithDependentsAsync(cancel);
            }
            else
            {
                var changes = Array.ConvertAll(rows, ChangeOf);
                await Parallel.ForEachAsync(
                    changes,
                    new ParallelOptions { MaxDegreeOfParallelism = Parallelism, CancellationToken = cancel },
                    async (change, stop) => await ApplyAsync(table, change, stop));
                await table.Cache.ClearDependentsAsync(changes, cancel);
            }
        }
    }

    private static Task ApplyAsync(TrackedTable table, EntityChange change, CancellationToken cancel) => change.IsDeletion
        ? Task.WhenAll(table.Cache.ApplyAsync(change, cancel), table.OnDeleteAsync(change.Id, cancel))
        : table.Cache.ApplyAsync(change, cancel);

    /// <summary>The revision of a deletion is later than the row's last version.</summary>
    private static EntityChange ChangeOf(RowChange row) =>
        new(row.Id!, new(row.Deleted ? row.Version + 1 : row.Version, row.Fence), row.Deleted);

    private void LogOnce(string reason)
    {
        if (reason != _lastLogged)
        {
            Log.DoesNotFollow(_log, reason);
        }

        _lastLogged = reason;
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "PostgreSQL does not run with wal_level=logical: entries of rows that other clients change stay cached until their TTL ends")]
        public static partial void NotPossible(ILogger log);

        [LoggerMessage(2, LogLevel.Information, "This process reads the changes of the database")]
        public static partial void Follows(ILogger log);

        [LoggerMessage(3, LogLevel.Warning,
            "PostgreSQL removed unread changes from the slot {Slot}: max_slot_wal_keep_size was too small for them")]
        public static partial void Lost(ILogger log, string slot);

        [LoggerMessage(4, LogLevel.Warning, "Change data capture cannot read the changes of the database at the moment: {Reason}")]
        public static partial void DoesNotFollow(ILogger log, string reason);

        [LoggerMessage(5, LogLevel.Information, "Redis may have missed changes of the database: the caches of its tables are cleared")]
        public static partial void Dropped(ILogger log);
    }
}
