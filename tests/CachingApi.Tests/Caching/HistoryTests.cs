using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Caching;

/// <summary>
/// A randomised history: callers write, list and read users on three nodes, one of them a separate process, during faults of the cache,
/// the state server, PostgreSQL and that process; <see cref="HistoryChecker"/> checks every operation.
/// CACHINGAPI_SEED replays a run's decisions, CACHINGAPI_SOAK_SECONDS makes it longer (./dev soak).
/// </summary>
[Collection("Busy")]
public sealed class HistoryTests(TestServers servers, ITestOutputHelper output)
{
    [Fact]
    public async Task No_read_is_older_than_an_acknowledged_write_or_an_earlier_read()
    {
        var run = new HistoryRun(servers, output) { Duration = TimeSpan.FromSeconds(15) };
        await run.RunAsync();

        Assert.All(
            run.Nodes, node => Assert.True(node.Tiers.GetValueOrDefault("memory") > 0, $"node {node.Number} never read from memory"));
        Assert.All(run.Nodes, node => Assert.True(node.Compared > 0, $"node {node.Number} compared no entry with its source"));
        if (HistoryRun.IsSoak && run.Delays.Count >= HistoryRun.EnoughDelays)
        {
            Assert.InRange(HistoryRun.Percentile(run.Delays, 0.99), TimeSpan.Zero, TimeSpan.FromMilliseconds(100));
        }
    }
}
