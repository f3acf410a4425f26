namespace CachingApi.Administration;

/// <summary>Keeps the statistics of this process of the last 15 minutes, one every ten seconds.</summary>
internal sealed class StatsHistory(CacheStatistics statistics, TimeProvider time) : BackgroundService
{
    private const int MaxKept = 90;

    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(10);

    private readonly Queue<CacheStats> _kept = new();

    public CacheStatsHistory Read()
    {
        lock (_kept)
        {
            return new() { Instance = CacheStatistics.Instance, Stats = [.. _kept] };
        }
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        using var timer = new PeriodicTimer(Interval, time);
        while (await timer.WaitForNextTickAsync(stoppingToken))
        {
            var stats = statistics.Read();
            lock (_kept)
            {
                _kept.Enqueue(stats with { Caches = [.. stats.Caches.Select(cache => cache with { HotKeys = [] })] });
                if (_kept.Count > MaxKept)
                {
                    _kept.Dequeue();
                }
            }
        }
    }
}
