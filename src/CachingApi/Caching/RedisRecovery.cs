using System.Text.RegularExpressions;
using CachingApi.Storage;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Brings Redis back into use: probes it while the circuit is open, finds out which incarnation of it answers, and replays the
/// invalidations that it missed before any entry that it holds is served again.
/// </summary>
internal sealed partial class RedisRecovery(
    Storage.Redis redis,
    RedisTier tier,
    CircuitBreaker circuit,
    OwedInvalidations owed,
    Incarnations incarnations,
    Namespaces namespaces,
    TimeProvider time,
    ILogger<RedisRecovery> log)
    : BackgroundService
{
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(1);

    private volatile bool _stateKnown;
    private bool _redisLearned;
    private bool _stateLearned;
    private bool _loggedDenied;

    /// <summary>Nothing is served before it is known whether Redis was restarted from a snapshot while no process ran.</summary>
    public override async Task StartAsync(CancellationToken cancellationToken)
    {
        var (cache, state) = (redis.Cache.Multiplexer, redis.State.Multiplexer);
        cache.ConnectionFailed += (_, lost) => Distrust(lost.ConnectionType);
        cache.ConnectionRestored += (_, restored) => Distrust(restored.ConnectionType);
        state.ConnectionRestored += (_, restored) => _stateKnown &= restored.ConnectionType is not ConnectionType.Interactive;
        Log.Connected(log, cache.IsConnected);
        await LearnIncarnationsAsync(cancellationToken);
        await base.StartAsync(cancellationToken);
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        // Real time, not the injected clock: Redis comes and goes on its own.
        using var timer = new PeriodicTimer(Interval);
        var away = false;
        while (await timer.WaitForNextTickAsync(stoppingToken))
        {
            // Before the probe: if the connection is lost during it, the circuit stays open.
            var openings = circuit.Openings;
            if (circuit.IsOpen || !incarnations.IsRedisKnown || !_stateKnown)
            {
                var alive = await tier.ProbeAsync(stoppingToken);
                await LearnIncarnationsAsync(stoppingToken);
                if (alive && incarnations.IsRedisKnown)
                {
                    circuit.Close(openings);
                }
            }

            if (!circuit.IsOpen && !owed.IsEmpty)
            {
                await ReplayAsync(stoppingToken);
            }

            if (away == tier.IsTrusted)
            {
                away = !away;
                Log.Changed(log, away ? "left alone" : "back in use");
            }
        }
    }

    private void Distrust(ConnectionType connection)
    {
        if (connection is ConnectionType.Interactive)
        {
            circuit.Open();
            incarnations.ForgetRedis();
        }
    }

    private async Task LearnIncarnationsAsync(CancellationToken cancel)
    {
        if (circuit.IsOpen || !incarnations.IsRedisKnown)
        {
            var openings = circuit.Openings;
            if (await MastersAsync(redis.Cache.Multiplexer, cancel) is { } masters && openings == circuit.Openings)
            {
                Learned("redis", incarnations.LearnRedis(masters), ref _redisLearned);
            }
        }

        if (!_stateKnown && await MastersAsync(redis.State.Multiplexer, cancel) is { } state)
        {
            _stateKnown = true;
            Learned("state", incarnations.LearnState(state), ref _stateLearned);
        }
    }

    private void Learned(string role, bool changed, ref bool learned)
    {
        if (changed)
        {
            if (learned)
            {
                Log.AnotherIncarnation(log, role);
            }

            // Each cache asks for its generation again, and gives the incarnations along.
            namespaces.Forget();
        }

        learned = true;
    }

    /// <summary>
    /// The run and replication ids of the masters that this process is connected to: a restart changes the one, a promotion the other.
    /// <c>null</c> if a master does not answer; empty if <c>INFO</c> is not allowed.
    /// </summary>
    private async Task<IReadOnlyList<string>?> MastersAsync(IConnectionMultiplexer connection, CancellationToken cancel)
    {
        var masters = new List<string>();
        foreach (var server in connection.GetServers().Where(server => server.IsConnected && !server.IsReplica))
        {
            try
            {
                var info = await server.InfoRawAsync().WaitAsync(Timeout, cancel) ?? "";
                masters.Add(string.Join('/', Ids().Matches(info).Select(match => match.Groups["id"].Value)));
            }
            catch (RedisServerException error) when (error.Message.StartsWith("NOPERM", StringComparison.Ordinal))
            {
                if (!_loggedDenied)
                {
                    Log.InfoDenied(log);
                }

                _loggedDenied = true;
                return [];
            }
            catch (Exception error) when (Redis.IsOutage(error))
            {
                return null;
            }
        }

        return masters.Count == 0 ? null : [.. masters.Order(StringComparer.Ordinal)];
    }

    private async Task ReplayAsync(CancellationToken cancel)
    {
        foreach (var bump in owed.Bumps())
        {
            if (!await namespaces.BumpAsync(bump.Key, cause: null).WaitAsync(cancel))
            {
                return;
            }

            owed.Paid(bump);
        }

        foreach (var entry in owed.Entries())
        {
            var ((cache, id), revision) = entry;
            if (await namespaces.CurrentAsync(cache, cancel) is not { Generation: { } generation } epoch)
            {
                return;
            }

            var key = namespaces.Key(cache, generation, id);
            var tombstone = CacheEntry.Tombstone(key, revision, time.GetUtcNow());
            var write = await tier.WriteAsync(cache, id, key, tombstone, Invalidation.TombstoneTtl, Moment.Now, cancel);
            if (write.State is WriteState.Unavailable || !await namespaces.IsCurrentAsync(cache, epoch, write.Generation, cancel))
            {
                return;
            }

            owed.Paid(entry);
        }
    }

    [GeneratedRegex("^(run_id|master_replid):(?<id>[^\r\n]*)", RegexOptions.Multiline)]
    private static partial Regex Ids();

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "Redis (cache) connected: {Connected}")]
        public static partial void Connected(ILogger log, bool connected);

        [LoggerMessage(2, LogLevel.Warning, "Redis (cache) is {State}")]
        public static partial void Changed(ILogger log, string state);

        [LoggerMessage(3, LogLevel.Warning, "Redis ({Server}) was restarted or replaced: all caches are cleared, once")]
        public static partial void AnotherIncarnation(ILogger log, string server);

        [LoggerMessage(4, LogLevel.Warning, "Redis does not allow INFO: a restart from an old snapshot is noticed only by change capture")]
        public static partial void InfoDenied(ILogger log);
    }
}
