using CachingApi.Storage;

namespace CachingApi.Caching;

/// <summary>
/// Brings Redis back into use: probes it while the circuit is open, and makes up for the writes that it has not heard of
/// before anything it holds is served again.
/// </summary>
internal sealed partial class RedisRecovery(
    Redis redis, RedisTier tier, CircuitBreaker circuit, OwedInvalidations owed, Namespaces namespaces, TimeProvider time, ILogger<RedisRecovery> log)
    : BackgroundService
{
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(100);

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        Log.Connected(log, redis.Cache.Multiplexer.IsConnected);

        // Real time, not the injected clock: Redis comes and goes on its own.
        using var timer = new PeriodicTimer(Interval);
        var away = false;
        while (await timer.WaitForNextTickAsync(stoppingToken))
        {
            if (circuit.IsOpen && await tier.PingAsync(stoppingToken))
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

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "Redis (cache) connected: {Connected}")]
        public static partial void Connected(ILogger log, bool connected);

        [LoggerMessage(2, LogLevel.Warning, "Redis (cache) is {State}")]
        public static partial void Changed(ILogger log, string state);
    }
}
