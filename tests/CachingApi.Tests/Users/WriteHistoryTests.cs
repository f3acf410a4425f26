using CachingApi.Tests.Caching;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Users;

/// <summary>
/// A randomised history in which the state server keeps acknowledged writes, so that none may be lost. The queue is small, so that
/// synchronous writes come between, and its server is killed. See <see cref="HistoryRun"/>.
/// </summary>
[Collection("Busy")]
public sealed class WriteHistoryTests(TestServers servers, ITestOutputHelper output)
{
    [Fact]
    public async Task The_last_acknowledged_write_of_each_user_is_the_one_that_stays()
    {
        var run = new HistoryRun(servers, output)
        {
            Duration = TimeSpan.FromSeconds(12),
            KeepsState = true,
            Settings = new() { ["WriteBehind:Capacity"] = "5", ["WriteBehind:BatchSize"] = "3" },
        };
        await run.RunAsync();

        Assert.True(run.Queued > 0, "no write was queued");
    }
}
