using CachingApi.Tests.Servers;
using Npgsql;

namespace CachingApi.Tests.Caching;

/// <summary>The faults of a history in sequence: each kind once, in a random order, then again.</summary>
internal sealed class HistoryFaults(
    Random random,
    HistoryChecker checker,
    HistoryClock clock,
    IReadOnlyList<RedisServer> cache,
    RedisServer state,
    bool keepsState,
    PostgresServer postgres,
    FaultProxy? proxy,
    HistoryNode killable,
    Action<string> report)
{
    /// <summary>How long the effects of a fault may last. Until then, the delay of messages is not measured.</summary>
    private static readonly TimeSpan Aftermath = TimeSpan.FromSeconds(3);

    /// <summary>After this many faults, there are none for a while.</summary>
    private const int FaultsBetweenCalms = 6;

    private static readonly TimeSpan Calm = TimeSpan.FromSeconds(8);

    private long _calmSince;

    /// <summary>The number of faults so far.</summary>
    public int Count { get; private set; }

    /// <summary>A number that stays the same while there is no fault; 0 during a fault and its aftermath.</summary>
    public long CalmNumber => _calmSince is var since && since > 0 && clock.Now() - TimeSpan.FromTicks(since) > Aftermath ? since : 0;

    public async Task RunAsync(CancellationToken stop)
    {
        (string What, Func<TimeSpan, Task> StrikeAsync)[] kinds =
        [
            ("cache frozen", FreezeAsync),
            ("cache killed, started empty", lasting => RestartAsync(empty: true, lasting)),
            ("cache killed, started from an older snapshot", SnapshotAsync),
            ("cache flushed", _ => One(cache).FlushAsync()),
            ("state frozen", lasting => FreezeAsync(state, lasting)),
            keepsState ? ("state killed", lasting => RestartAsync(state, empty: false, lasting)) : ("state lost", LoseAsync),
            ("rows locked", LockAsync),
            ("PostgreSQL frozen", FreezePostgresAsync),
            ("PostgreSQL killed", KillPostgresAsync),
            ("a process killed", KillProcessAsync),
        ];
        if (proxy is not null)
        {
            kinds = [.. kinds, ("a node cut off from the cache", CutOffAsync)];
        }

        _calmSince = clock.Now().Ticks;
        while (!stop.IsCancellationRequested)
        {
            random.Shuffle(kinds);
            foreach (var (what, strikeAsync) in kinds)
            {
                if (!await WaitAsync(
                    Count % FaultsBetweenCalms == FaultsBetweenCalms - 1 ? Calm : TimeSpan.FromMilliseconds(random.Next(200, 1500)),
                    stop))
                {
                    return;
                }

                var lasting = TimeSpan.FromMilliseconds(random.Next(20, 1500));
                report($"{what}, {lasting.TotalMilliseconds} ms");
                _calmSince = 0;
                Count++;
                await strikeAsync(lasting);
                _calmSince = clock.Now().Ticks;
            }
        }
    }

    /// <summary>Waits; <c>false</c> if the history has ended.</summary>
    private static async Task<bool> WaitAsync(TimeSpan time, CancellationToken stop)
    {
        await Task.Delay(time, stop).ContinueWith(_ => { }, CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
        return !stop.IsCancellationRequested;
    }

    private T One<T>(IReadOnlyList<T> servers) => servers[random.Next(servers.Count)];

    private Task FreezeAsync(TimeSpan lasting) => FreezeAsync(One(cache), lasting);

    private static async Task FreezeAsync(RedisServer server, TimeSpan lasting)
    {
        await server.PauseAsync();
        await Task.Delay(lasting, CancellationToken.None);
        await server.ResumeAsync();
    }

    private async Task RestartAsync(bool empty, TimeSpan lasting) => await RestartAsync(One(cache), empty, lasting);

    private static async Task RestartAsync(RedisServer server, bool empty, TimeSpan lasting)
    {
        await server.KillAsync();
        await Task.Delay(lasting, CancellationToken.None);
        await server.StartAgainAsync(empty);
    }

    private async Task SnapshotAsync(TimeSpan lasting)
    {
        var server = One(cache);
        await server.SaveAsync();
        await Task.Delay(random.Next(100, 2000), CancellationToken.None);
        await RestartAsync(server, empty: false, lasting);
    }

    private async Task LoseAsync(TimeSpan lasting)
    {
        await state.KillAsync();
        var rows = new Dictionary<Guid, (long, string)>();
        await using (var connection = new NpgsqlConnection($"{postgres.ConnectionString};Pooling=false"))
        {
            await connection.OpenAsync(CancellationToken.None);
            await using var command = new NpgsqlCommand("SELECT id, version, display_name FROM users", connection);
            await using var reader = await command.ExecuteReaderAsync(CancellationToken.None);
            while (await reader.ReadAsync(CancellationToken.None))
            {
                rows[reader.GetGuid(0)] = (reader.GetInt64(1), reader.GetString(2));
            }
        }

        checker.Lose(rows);
        await Task.Delay(lasting, CancellationToken.None);
        await state.StartAgainAsync(empty: true);
        checker.LossIsOver(clock.Now());
    }

    private async Task LockAsync(TimeSpan lasting)
    {
        await using var connection = new NpgsqlConnection($"{postgres.ConnectionString};Pooling=false");
        await connection.OpenAsync(CancellationToken.None);
        await using var command = new NpgsqlCommand("BEGIN; LOCK TABLE users IN EXCLUSIVE MODE", connection);
        await command.ExecuteNonQueryAsync(CancellationToken.None);
        await Task.Delay(lasting, CancellationToken.None);
    }

    private async Task FreezePostgresAsync(TimeSpan lasting)
    {
        await postgres.PauseAsync();
        await Task.Delay(lasting, CancellationToken.None);
        await postgres.ResumeAsync();
    }

    private async Task KillPostgresAsync(TimeSpan lasting)
    {
        await postgres.KillAsync();
        await Task.Delay(lasting, CancellationToken.None);
        await postgres.StartAgainAsync();
    }

    private async Task KillProcessAsync(TimeSpan lasting)
    {
        await killable.KillAsync();
        await Task.Delay(lasting, CancellationToken.None);
        await killable.StartAsync();
    }

    private async Task CutOffAsync(TimeSpan lasting)
    {
        proxy!.Cut();
        await Task.Delay(lasting, CancellationToken.None);
        proxy.Mend();

        // The node has acknowledged writes that it could not publish. Change data capture publishes them instead, which takes part of the
        // promised second. If Redis fails meanwhile, the whole second counts from then.
        await Task.Delay(TimeSpan.FromSeconds(1), CancellationToken.None);
    }
}
