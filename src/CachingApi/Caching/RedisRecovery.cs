using System.Net;
using System.Text.RegularExpressions;
using CachingApi.Storage;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Brings Redis back into use: probes it while the circuit is open, and makes up for the writes that it has not heard of
/// before anything it holds is served again.
/// </summary>
internal sealed partial class RedisRecovery(
    Storage.Redis redis, RedisTier tier, CircuitBreaker circuit, OwedInvalidations owed, Namespaces namespaces, TimeProvider time, ILogger<RedisRecovery> log)
    : BackgroundService
{
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(1);

    private readonly Dictionary<EndPoint, string> _runs = [];

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var connection = redis.Cache.Multiplexer;
        Log.Connected(log, connection.IsConnected);
        await LookAtRunsAsync(stoppingToken);
        connection.ConnectionFailed += (_, lost) => Distrust(lost.ConnectionType);
        connection.ConnectionRestored += (_, restored) => Distrust(restored.ConnectionType);

        // Real time, not the injected clock: Redis comes and goes on its own.
        using var timer = new PeriodicTimer(Interval);
        var away = false;
        while (await timer.WaitForNextTickAsync(stoppingToken))
        {
            if (circuit.IsOpen && await tier.PingAsync(stoppingToken) && await LookAtRunsAsync(stoppingToken))
            {
                circuit.Close();
            }

            if (!circuit.IsOpen && !owed.IsEmpty)
            {
                await PayAsync(stoppingToken);
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
        }
    }

    /// <summary>
    /// Drops all caches if Redis is not the run that it was: one that was started again begins with its last snapshot, and a
    /// replica that took over may lack the last writes. Returns <c>false</c> where Redis is away.
    /// </summary>
    private async Task<bool> LookAtRunsAsync(CancellationToken cancel)
    {
        var known = _runs.Count > 0;
        foreach (var server in redis.Cache.Multiplexer.GetServers().Where(server => server.IsConnected && !server.IsReplica))
        {
            try
            {
                var info = await server.InfoRawAsync("server").WaitAsync(Patience, cancel);
                var run = RunId().Match(info ?? "").Value;
                if (known && run != _runs.GetValueOrDefault(server.EndPoint))
                {
                    Log.Restarted(log);
                    foreach (var cache in namespaces.Caches)
                    {
                        owed.AddBump(cache);
                    }
                }

                _runs[server.EndPoint] = run;
            }
            catch (RedisServerException error) when (error.Message.StartsWith("NOPERM", StringComparison.Ordinal))
            {
                Log.NotToldOfRuns(log);
                return true;
            }
            catch (Exception error) when (Redis.IsOutage(error))
            {
                return false;
            }
        }

        return true;
    }

    private async Task PayAsync(CancellationToken cancel)
    {
        foreach (var bump in owed.Bumps())
        {
            if (!await namespaces.BumpAsync(bump.Key, cancel))
            {
                return;
            }

            owed.Paid(bump);
        }

        foreach (var entry in owed.Entries())
        {
            var ((cache, id), (version, written)) = entry;

            // What was only shown goes on being shown until Redis is used again: once is enough, then.
            if (!written && circuit.IsSettling)
            {
                continue;
            }

            if (await namespaces.CurrentAsync(cache, cancel) is not { } generation)
            {
                return;
            }

            var key = namespaces.Key(cache, generation, id);
            var tombstone = CacheEntry.Tombstone(key, version, time.GetUtcNow());
            if ((await tier.WriteAsync(cache, id, key, tombstone, Invalidation.TombstoneTtl, cancel)).State is WriteState.Unavailable)
            {
                return;
            }

            owed.Paid(entry);
        }
    }

    [GeneratedRegex("^run_id:.*$", RegexOptions.Multiline)]
    private static partial Regex RunId();

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "Redis (cache) connected: {Connected}")]
        public static partial void Connected(ILogger log, bool connected);

        [LoggerMessage(2, LogLevel.Warning, "Redis (cache) is {State}")]
        public static partial void Changed(ILogger log, string state);

        [LoggerMessage(3, LogLevel.Warning, "Redis (cache) was started again, or replaced: what it holds may be old and is dropped")]
        public static partial void Restarted(ILogger log);

        [LoggerMessage(4, LogLevel.Warning, "Redis (cache) does not allow INFO: whether it was started again from an old snapshot cannot be told")]
        public static partial void NotToldOfRuns(ILogger log);
    }
}
