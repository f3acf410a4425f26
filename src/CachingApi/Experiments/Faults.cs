using CachingApi.Redis;
using CachingApi.Storage;
using Microsoft.Extensions.Options;
using Npgsql;
using StackExchange.Redis;

namespace CachingApi.Experiments;

/// <summary>
/// Real faults of the servers, for some seconds and one at a time: Redis that does not answer (<c>CLIENT PAUSE</c>), a backplane whose
/// connections break (<c>CLIENT KILL</c>), and a table that another transaction has locked (<c>LOCK TABLE</c>).
/// </summary>
internal sealed partial class Faults(
    IOptions<ConnectionStrings> connections,
    NpgsqlDataSource postgres,
    TimeProvider time,
    IHostApplicationLifetime lifetime,
    ILogger<Faults> log)
{
    public const string FrozenRedis = "redis-frozen", CutBackplane = "backplane-cut", LockedTable = "database-locked";

    /// <summary>Between two breaks of the backplane's connections, which the client restores within milliseconds.</summary>
    private static readonly TimeSpan CutInterval = TimeSpan.FromMilliseconds(50);

    private readonly Lock _lock = new();
    private FaultState? _current;

    public static IReadOnlyList<string> All { get; } = [FrozenRedis, CutBackplane, LockedTable];

    /// <summary>The fault at present; <c>null</c> if there is none.</summary>
    public FaultState? Current
    {
        get
        {
            lock (_lock)
            {
                return _current;
            }
        }
    }

    /// <summary>Begins a fault; <c>false</c> if there is one at present.</summary>
    public bool Begin(FaultRequest request)
    {
        var duration = TimeSpan.FromSeconds(request.Seconds);
        lock (_lock)
        {
            if (_current is not null)
            {
                return false;
            }

            _current = new() { Fault = request.Fault, Until = time.GetUtcNow() + duration };
        }

        _ = Task.Run(() => CauseAsync(request.Fault, duration, lifetime.ApplicationStopping), CancellationToken.None);
        return true;
    }

    private async Task CauseAsync(string fault, TimeSpan duration, CancellationToken cancel)
    {
        Log.Began(log, fault, duration.TotalSeconds);
        try
        {
            await (fault switch
            {
                FrozenRedis => FreezeRedisAsync(duration, cancel),
                CutBackplane => CutBackplaneAsync(duration, cancel),
                _ => LockTableAsync(duration, cancel),
            });
        }
        catch (Exception error) when (RedisConnections.IsOutage(error) || error is NpgsqlException or OperationCanceledException)
        {
            Log.Failed(log, fault, error.Message);
        }
        finally
        {
            lock (_lock)
            {
                _current = null;
            }
        }
    }

    private async Task FreezeRedisAsync(TimeSpan duration, CancellationToken cancel)
    {
        await using var redis = await ConnectAsync(connections.Value.Redis);
        await Task.WhenAll(redis.GetServers().Where(server => server.IsConnected).Select(
            server => server.ExecuteAsync("CLIENT", "PAUSE", (long)duration.TotalMilliseconds, "ALL")));
        await Task.Delay(duration, time, cancel);
    }

    private async Task CutBackplaneAsync(TimeSpan duration, CancellationToken cancel)
    {
        // The caches' messages are on the cache's Redis, those of sessions on the state's.
        await using var cache = await ConnectAsync(connections.Value.Redis);
        await using var state = await ConnectAsync(
            connections.Value.RedisState is { Length: > 0 } own ? own : connections.Value.Redis);
        var end = time.GetUtcNow() + duration;
        do
        {
            await Task.WhenAll(cache.GetServers().Concat(state.GetServers()).Where(server => server.IsConnected).Select(
                server => server.ExecuteAsync("CLIENT", "KILL", "TYPE", "pubsub")));
            await Task.Delay(CutInterval, time, cancel);
        }
        while (time.GetUtcNow() < end);
    }

    private async Task LockTableAsync(TimeSpan duration, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        await using var command = new NpgsqlCommand("LOCK TABLE users IN ACCESS EXCLUSIVE MODE", connection, transaction);
        await command.ExecuteNonQueryAsync(cancel);
        await Task.Delay(duration, time, cancel);
    }

    /// <summary>A connection of its own, because the service's connections may send no administrative commands.</summary>
    private static async Task<ConnectionMultiplexer> ConnectAsync(string connectionString)
    {
        var options = ConfigurationOptions.Parse(connectionString);
        (options.AllowAdmin, options.Protocol) = (true, RedisProtocol.Resp2);
        return await ConnectionMultiplexer.ConnectAsync(options);
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "An administrator causes the fault {Fault} for {Seconds} seconds")]
        public static partial void Began(ILogger log, string fault, double seconds);

        [LoggerMessage(2, LogLevel.Warning, "The fault {Fault} could not be caused, or not for the whole time: {Reason}")]
        public static partial void Failed(ILogger log, string fault, string reason);
    }
}
