using System.Diagnostics.Metrics;
using System.Threading.Channels;
using CachingApi.Storage;
using Microsoft.Extensions.Options;
using Npgsql;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>A table whose changes invalidate the cached entries of it, whichever client made them.</summary>
/// <param name="VoidAsync">Invalidates the cached entry of one row.</param>
/// <param name="VoidAllAsync">Clears the caches of all rows, and those that depend on them.</param>
/// <param name="VoidDependentAsync">Clears the caches that depend on many rows, such as lists, unless the writers have; called once for many changes.</param>
internal sealed record FollowedTable(
    string Name,
    Func<RowChange, CancellationToken, Task> VoidAsync,
    Func<CancellationToken, Task> VoidAllAsync,
    Func<IReadOnlyCollection<RowChange>, CancellationToken, Task> VoidDependentAsync);

/// <summary>
/// Change data capture: one process at a time reads the committed changes of the database and invalidates the cached entries. So a
/// writer that died between its commit and the invalidation, a lost message, or a change made in psql leave nothing stale.
/// </summary>
/// <remarks>
/// 1. a writer commits version 2 and dies; Redis and the memory of every process still have version 1;
/// 2. the leader reads the commit from the slot, puts a tombstone of version 2 in place and publishes it;
/// 3. if the leader dies before it has confirmed, the next one begins at the same commit: an invalidation may be repeated.
/// Redis keeps the position up to which it has the changes, on every shard; it is written before the slot is confirmed. If it is
/// behind the slot (an old snapshot, a new slot, another Redis) or of another timeline (a standby was promoted and commits were
/// lost), Redis has missed changes that will not come again, and all caches of the tables are cleared, once.
/// </remarks>
internal sealed partial class ChangeCapture : BackgroundService
{
    /// <summary>More rows than this at once void all that is cached of their table.</summary>
    private const int MaxRows = 5000;

    private const int Parallelism = 16;

    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(250);

    /// <summary>Changes are collected for so long, so that the writers' own invalidations come first and need not be repeated.</summary>
    private static readonly TimeSpan Collect = TimeSpan.FromMilliseconds(25);

    private static readonly string MoveMark = Lua.Load("change_position.lua");

    private readonly ChangeSource _source;
    private readonly FollowedTable[] _tables;
    private readonly Redis _redis;
    private readonly RedisTier _tier;
    private readonly OwedInvalidations _owed;
    private readonly Incarnations _incarnations;
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
        Incarnations incarnations,
        IOptions<DatabaseOptions> options,
        IMeterFactory meters,
        ILogger<ChangeCapture> log)
    {
        (_source, _tables, _redis, _tier, _owed, _incarnations) = (source, [.. tables], redis, tier, owed, incarnations);
        (_wanted, _log) = (options.Value.ChangeCapture, log);
        var meter = meters.Create(CacheMetrics.MeterName);
        _changes = meter.CreateCounter<long>("change_capture.changes", description: "Committed changes of rows that were applied to the caches, by table.");
        meter.CreateObservableGauge("change_capture.follows", () => _follows ? 1 : 0, description: "1 in the process that reads the changes of the database.");
    }

    /// <summary>Nothing is served before it is known whether a standby was promoted while no process ran.</summary>
    public override async Task StartAsync(CancellationToken cancellationToken)
    {
        if (_wanted)
        {
            try
            {
                var (system, timeline) = await _source.IdentifyAsync(cancellationToken);
                _incarnations.LearnPostgres(system, timeline);
            }
            catch (NpgsqlException error)
            {
                Trouble($"{error.GetType().Name}: {error.Message}");
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

                    saidNotPossible = true; // until PostgreSQL is restarted with it
                }
                else if (_tier.IsTrusted)
                {
                    // A process that does not reach Redis leaves the slot to one that does.
                    saidNotPossible = false;
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
        await using var changes = await _source.TryOpenAsync(slot, cancel);
        if (changes is null)
        {
            return;
        }

        var confirmed = await _source.ConfirmedAsync(slot, cancel);
        var keys = _redis.KeysOnShards("change-position");
        if (!await CoversAsync(keys, confirmed, cancel))
        {
            if (slot.Lost == true)
            {
                Log.Lost(_log, slot.Name);
            }

            Log.Dropped(_log);
            _incarnations.LearnPostgres(confirmed.System, confirmed.Timeline);
            await Task.WhenAll(_tables.Select(table => table.VoidAllAsync(cancel)));
            await UntilRedisHasAllAsync(cancel);
            await Task.WhenAll(keys.Select(key => _redis.Cache.StringSetAsync(key, $"{confirmed}"))).WaitAsync(cancel);
        }

        var queue = Channel.CreateBounded<RowChange>(2 * MaxRows);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        var reading = ReadAsync(changes, queue.Writer, stop.Token);
        try
        {
            await ApplyAsync(changes, queue.Reader, keys, confirmed, cancel);
        }
        finally
        {
            await stop.CancelAsync();
            await reading;
        }
    }

    /// <summary>Whether every shard has the changes that were confirmed; if so, the positions are set to that.</summary>
    private async Task<bool> CoversAsync(IReadOnlyList<RedisKey> keys, ChangePosition confirmed, CancellationToken cancel)
    {
        var held = await Task.WhenAll(keys.Select(key => _redis.Cache.StringGetAsync(key))).WaitAsync(cancel);
        if (!held.All(position => ChangePosition.Parse(position)?.Covers(confirmed) == true))
        {
            return false;
        }

        await Task.WhenAll(keys.Select(key => _redis.Cache.StringSetAsync(key, $"{confirmed}"))).WaitAsync(cancel);
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
#pragma warning disable CA1031 // It goes to the reader of the queue.
        catch (Exception error)
#pragma warning restore CA1031
        {
            queue.Complete(error);
        }
    }

    private async Task ApplyAsync(
        ChangeStream changes, ChannelReader<RowChange> queue, IReadOnlyList<RedisKey> keys, ChangePosition position, CancellationToken cancel)
    {
        Task<bool>? more = null;
        while (true)
        {
            // Also without a change: the position moves on with what is written elsewhere on the server.
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

            // The position first: every change up to it is in the queue by now.
            var received = changes.Received;
            var batch = new Dictionary<(string Table, string? Id), RowChange>();
            for (var waiting = queue.Count; waiting > 0 && queue.TryRead(out var change); waiting--)
            {
                batch[(change.Table, change.Id)] = change;
            }

            await VoidAsync(batch.Values, cancel);
            await UntilRedisHasAllAsync(cancel);
            position = await MoveAsync(keys, position, position with { Lsn = Math.Max(position.Lsn, (ulong)received) }, cancel);
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
                await table.VoidDependentAsync(rows, cancel);
            }

        }
    }

    /// <summary>Moves the position on every shard.</summary>
    /// <exception cref="UnavailableException">A shard has another one: it was restarted from a snapshot, or replaced.</exception>
    private async Task<ChangePosition> MoveAsync(
        IReadOnlyList<RedisKey> keys, ChangePosition from, ChangePosition to, CancellationToken cancel)
    {
        if (from != to)
        {
            var moved = await Task.WhenAll(keys.Select(key => _redis.Cache.ScriptEvaluateAsync(MoveMark, [key], [$"{from}", $"{to}"])))
                .WaitAsync(cancel);
            if (moved.Any(result => (int)result == 0))
            {
                throw new UnavailableException("The position of change capture in Redis");
            }
        }

        return to;
    }

    /// <summary>
    /// Ends when Redis has every invalidation of this process: those in the queue would be lost with the process, and the slot
    /// would not bring them again. If Redis does not answer, another process may reach it: it gets the slot.
    /// </summary>
    private async Task UntilRedisHasAllAsync(CancellationToken cancel)
    {
        for (var looks = 0; !_owed.IsEmpty; looks++)
        {
            if (looks >= 5 && !_tier.IsReachable || looks >= 100)
            {
                throw new UnavailableException("Redis");
            }

            await Task.Delay(TimeSpan.FromMilliseconds(50), cancel);
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
            "PostgreSQL does not run with wal_level=logical: entries of rows that other clients change stay cached until their TTL ends")]
        public static partial void NotPossible(ILogger log);

        [LoggerMessage(2, LogLevel.Information, "This process reads the changes of the database")]
        public static partial void Follows(ILogger log);

        [LoggerMessage(3, LogLevel.Warning, "PostgreSQL removed changes from the slot {Slot} before they were read: max_slot_wal_keep_size was too small for them")]
        public static partial void Lost(ILogger log, string slot);

        [LoggerMessage(4, LogLevel.Warning, "The changes of the database cannot be read at the moment: {Reason}")]
        public static partial void DoesNotFollow(ILogger log, string reason);

        [LoggerMessage(5, LogLevel.Information, "Redis may have missed changes of the database: the caches of its tables are cleared")]
        public static partial void Dropped(ILogger log);
    }
}
