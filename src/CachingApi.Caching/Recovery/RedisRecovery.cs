using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Brings Redis back into use. It probes Redis while the circuit is open, finds out which incarnation answers, and replays the missed
/// invalidations before any entry of Redis is served again.
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

    /// <summary>Before any entry is served, it finds out whether Redis was restarted from a snapshot while no process ran.</summary>
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
        // Real time, not the injected clock, because outages of Redis happen in real time.
        using var timer = new PeriodicTimer(Interval);
        var away = false;
        while (await timer.WaitForNextTickAsync(cancel))
        {
            // Read before the probe: if the connection is lost during the probe, the circuit stays open.
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
        [LoggerMessage(1, LogLevel.Warning, "Redis (cache) is not used until it answers again: {Reason}")]
        public static partial void LeftAlone(ILogger log, string reason);

        [LoggerMessage(3, LogLevel.Warning, "Redis (cache) is used again")]
        public static partial void BackInUse(ILogger log);

        [LoggerMessage(2, LogLevel.Information,
            "No Redis is configured: caches are in the memory of this process only, and write-behind is disabled")]
        public static partial void MemoryOnly(ILogger log);
    }
}
