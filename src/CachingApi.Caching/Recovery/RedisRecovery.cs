using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Brings Redis back into use: probes it while the circuit is open, finds out which incarnation of it answers, and replays the
/// invalidations that it missed before any entry that it holds is served again.
/// </summary>
internal sealed partial class RedisRecovery(
    RedisTier tier,
    RedisCalls calls,
    CircuitBreaker circuit,
    IncarnationWatch incarnations,
    Replay replay,
    ILogger<RedisRecovery> log)
    : EngineService
{
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(100);

    /// <summary>No entry is served before it is known whether Redis was restarted from a snapshot while no process ran.</summary>
    public override async Task StartAsync(CancellationToken cancellationToken)
    {
        if (!tier.IsConfigured)
        {
            Log.MemoryOnly(log);
            return;
        }

        incarnations.Start();
        await incarnations.LearnAsync(cancellationToken);
        await base.StartAsync(cancellationToken);
    }

    protected override async Task RunAsync(CancellationToken cancel)
    {
        // Real time, not the injected clock: Redis comes and goes on its own.
        using var timer = new PeriodicTimer(Interval);
        var away = false;
        while (await timer.WaitForNextTickAsync(cancel))
        {
            // Before the probe: if the connection is lost during it, the circuit stays open.
            var openings = circuit.Openings;
            if (circuit.IsOpen || !incarnations.IsComplete)
            {
                var alive = await calls.ProbeAsync(cancel);
                await incarnations.LearnAsync(cancel);
                if (alive && incarnations.IsRedisKnown)
                {
                    circuit.Close(openings);
                }
            }

            if (!circuit.IsOpen && !replay.IsDone)
            {
                await replay.RunAsync(cancel);
            }

            if (away == tier.IsTrusted)
            {
                away = !away;
                if (away)
                {
                    Log.LeftAlone(log, calls.LastFailure);
                }
                else
                {
                    Log.BackInUse(log);
                }
            }
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "Redis (cache) is left alone: {Reason}")]
        public static partial void LeftAlone(ILogger log, string reason);

        [LoggerMessage(3, LogLevel.Warning, "Redis (cache) is back in use")]
        public static partial void BackInUse(ILogger log);

        [LoggerMessage(2, LogLevel.Information,
            "No Redis is configured: caches are in the memory of this process only, and nothing is written behind")]
        public static partial void MemoryOnly(ILogger log);
    }
}
