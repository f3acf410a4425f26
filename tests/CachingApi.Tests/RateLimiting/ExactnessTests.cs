using System.Collections.Concurrent;
using System.Net;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.RateLimiting;

/// <summary>
/// Four nodes whose clocks are minutes apart take 10,000 requests of one client, over several windows. Redis's clock before and after a
/// request bounds the time of its decision.
/// </summary>
public sealed class ExactnessTests(TestServers servers)
{
    private const int Limit = 40;
    private const int Window = 2000; // milliseconds

    [Fact]
    public async Task A_fixed_window_lets_in_as_many_as_its_limit_each_time()
    {
        var (admitted, start, end) = await FloodAsync("fixed-window");

        // Each permit of each window is granted once, as the remaining permits show.
        var windows = (end / Window) - (start / Window) + 1;
        Assert.InRange(windows, 3, int.MaxValue);
        var timesLeft = admitted.CountBy(request => request.Left).ToDictionary();
        var begun = timesLeft[Limit - 1];
        Assert.InRange(begun, 3, windows);
        for (var left = 0; left < Limit; left++)
        {
            Assert.InRange(timesLeft.GetValueOrDefault(left), begun - 1, begun); // the last window may not have ended
        }

        foreach (var window in admitted
            .Where(request => request.Before / Window == request.After / Window)
            .GroupBy(request => request.Before / Window))
        {
            Assert.InRange(window.Count(), 1, Limit);
            Assert.Equal(window.Count(), window.Select(request => request.Left).Distinct().Count());
        }
    }

    [Fact]
    public async Task A_sliding_window_never_lets_in_more_than_its_limit_in_any_stretch_of_time()
    {
        var (admitted, start, end) = await FloodAsync("sliding-window");

        Assert.InRange(admitted.Length, 2 * Limit, (((end - start) / Window) + 1) * Limit);
        var byEnd = admitted.OrderBy(request => request.After).ToArray();
        for (var first = 0; first + Limit < byEnd.Length; first++)
        {
            // One request more than the limit, all of them certainly decided within less than a window.
            var stretch = byEnd[(first + Limit)].After - byEnd[first..(first + Limit + 1)].Min(request => request.Before);
            Assert.True(stretch >= Window, $"{Limit + 1} within {stretch} ms.");
        }
    }

    [Fact]
    public async Task A_sliding_window_of_two_counters_never_lets_in_more_than_its_limit_in_one_window_and_the_weighted_one_before()
    {
        var (admitted, start, end) = await FloodAsync("sliding-window-counter");

        Assert.InRange(admitted.Length, 2 * Limit, (((end - start) / Window) + 2) * Limit);
        Assert.All(
            admitted.Where(request => request.Before / Window == request.After / Window).GroupBy(request => request.Before / Window),
            window => Assert.InRange(window.Count(), 1, Limit));
    }

    [Fact]
    public async Task A_bucket_admits_its_capacity_and_the_permits_that_come_back()
    {
        var (admitted, start, end) = await FloodAsync("token-bucket");

        Assert.InRange(admitted.Length, 2 * Limit, Limit + ((end - start) * Limit / Window) + 1);
        var byEnd = admitted.OrderBy(request => request.After).ToArray();
        for (var first = 0; first < byEnd.Length; first += 10)
        {
            for (var last = first + Limit; last < byEnd.Length; last += 10)
            {
                var stretch = byEnd[last].After - byEnd[first..(last + 1)].Min(request => request.Before);
                Assert.InRange(last - first + 1, 1, Limit + (stretch * Limit / Window) + 1);
            }
        }
    }

    private async Task<(Admitted[] Admitted, long Start, long End)> FloodAsync(string algorithm)
    {
        var policies = new Dictionary<string, Policy> { ["it"] = new(algorithm, Limit, "00:00:02", OnStoreFailure: "closed") };
        var routes = new Dictionary<string, string[]> { ["/"] = ["it"] };
        var prefix = $"test-{Guid.NewGuid():N}";
        var nodes = new List<LimitedApp>();
        foreach (var minutes in new[] { 0, 7, -3, 60 })
        {
            nodes.Add(await LimitedApp.StartAsync(servers.Redis, policies, routes, prefix, new SkewedClock(TimeSpan.FromMinutes(minutes))));
        }

        var admitted = new ConcurrentQueue<Admitted>();
        var (requests, start) = (0, await nodes[0].RedisTimeAsync());
        await Task.WhenAll(nodes.SelectMany(node => Enumerable.Range(0, 2).Select(async _ =>
        {
            // 10,000 requests, and as many more as three windows need.
            while (Interlocked.Increment(ref requests) <= 10_000 || await node.RedisTimeAsync() < start + (3 * Window))
            {
                var before = await node.RedisTimeAsync();
                using var answer = await node.GetAsync("/");
                if (answer.StatusCode is HttpStatusCode.OK)
                {
                    admitted.Enqueue(new(before, await node.RedisTimeAsync(), answer.List("RateLimit").Single().Parameters["r"]));
                }
                else
                {
                    Assert.Equal(HttpStatusCode.TooManyRequests, answer.StatusCode);
                }
            }
        })));
        var end = await nodes[0].RedisTimeAsync();
        foreach (var node in nodes)
        {
            await node.DisposeAsync();
        }

        return ([.. admitted], start, end);
    }

    /// <param name="Before">Redis's clock before the request, in milliseconds.</param>
    /// <param name="Left">The remaining permits.</param>
    private sealed record Admitted(long Before, long After, long Left);

    private sealed class SkewedClock(TimeSpan skew) : TimeProvider
    {
        public override DateTimeOffset GetUtcNow() => base.GetUtcNow() + skew;
    }
}
