using System.Collections.Concurrent;
using CachingApi.RateLimiting;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.RateLimiting;

/// <summary>
/// Random histories of several processes: bursts and pauses, costs, crashes, changes of wall clocks, restarts of Redis and ends of
/// windows. Each history is checked against the bound of its algorithm.
/// </summary>
public sealed class LeaseHistoryTests(TestServers servers)
{
    private const int Window = 400; // milliseconds

    private static bool IsCluster => Environment.GetEnvironmentVariable("CACHINGAPI_TEST_REDIS") is "cluster";

    public static TheoryData<string> Leased => PermitLeasesTests.Leased;

    [Theory]
    [MemberData(nameof(Leased))]
    public async Task No_window_and_no_bucket_grants_more_than_its_limit(string algorithm)
    {
        var seed = Random.Shared.Next();
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);
        await using var redis = IsCluster ? null : await RedisServer.StartAsync();
        var policy = LimiterNode.NewPolicy(algorithm, random.Next(100, 1500), TimeSpan.FromMilliseconds(Window), onStoreFailure: "open");
        await using var history = new History(redis?.ConnectionString ?? servers.Redis, policy, random);

        var lifetimes = new List<(double From, double Until)> { (0, double.MaxValue) };
        for (var step = 0; step < 12; step++)
        {
            await Task.Delay(random.Next(Window));
            if (step % 3 == 1)
            {
                await history.CrashOneAsync();
            }

            if (redis is not null && step is 4 or 9)
            {
                // Every lease of the lost state ends before the next state begins.
                await redis.KillAsync();
                await Task.Delay(150);
                lifetimes[^1] = (lifetimes[^1].From, History.Now);
                await redis.StartAgainAsync(empty: true);
                lifetimes.Add((History.Now, double.MaxValue));
            }
        }

        var used = await history.StopAsync();
        Assert.InRange(used.Length, policy.Limit, int.MaxValue);
        foreach (var (from, until) in lifetimes)
        {
            Check(policy, [.. used.Where(one => one.Before >= from && one.After < until)], $"{algorithm}, seed {seed}");
        }
    }

    [Theory]
    [MemberData(nameof(Leased))]
    public async Task Only_the_leases_of_crashed_processes_are_lost(string algorithm)
    {
        var seed = Random.Shared.Next();
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var policy = LimiterNode.NewPolicy(algorithm, 100_000, TimeSpan.FromDays(20));
        await using var history = new History(servers.Redis, policy, random);
        var crashes = random.Next(3);
        for (var step = 0; step < 4; step++)
        {
            await Task.Delay(random.Next(300));
            if (step < crashes)
            {
                await history.CrashOneAsync();
            }
        }

        var used = (await history.StopAsync()).Sum(one => one.Cost);
        long counted = 0;
        var lost = crashes * (policy.Limit / PermitLease.Share);
        await Eventually.TrueAsync(
            async () =>
            {
                counted = await history.UsedAsync();
                Assert.True(counted >= used, $"{used} used, {counted} counted, seed {seed}");
                return counted <= used + lost;
            },
            $"the refunds, {crashes} crashes, seed {seed}");
        TestContext.Current.TestOutputHelper?.WriteLine($"{used} used, {counted} counted, {crashes} crashes");
    }

    private static void Check(RateLimitPolicy policy, Used[] used, string history)
    {
        if (policy.Algorithm is Algorithm.TokenBucket)
        {
            var byEnd = used.OrderBy(one => one.After).ToArray();
            for (var first = 0; first < byEnd.Length; first += 20)
            {
                var (sum, start) = (0, byEnd[first..].Min(one => one.Before));
                for (var last = first; last < byEnd.Length; last++)
                {
                    sum += byEnd[last].Cost;
                    var bound = policy.Limit + ((byEnd[last].After - start + 100) * policy.Limit / Window) + 1;
                    Assert.True(sum <= bound, $"{sum} permits within {byEnd[last].After - start} ms, {history}");
                }
            }

            return;
        }

        var windows = used
            .Where(one => Math.Floor(one.Before / Window) == Math.Floor(one.After / Window))
            .GroupBy(one => (long)(one.After / Window))
            .ToDictionary(window => window.Key, window => window.OrderBy(one => one.After).ToArray());
        foreach (var (number, permits) in windows)
        {
            var before = policy.Algorithm is Algorithm.SlidingWindowCounter && windows.TryGetValue(number - 1, out var earlier)
                ? earlier.Sum(one => one.Cost)
                : 0;
            var sum = 0;
            foreach (var one in permits)
            {
                sum += one.Cost;
                var counts = before * (((number + 1) * Window) - one.After) / Window;
                Assert.True(sum + counts <= policy.Limit, $"{sum} and {counts} permits of {policy.Limit}, {history}");
            }
        }
    }

    /// <param name="Before">The clock before the request, in Unix milliseconds; it is Redis's clock, too.</param>
    private sealed record Used(double Before, double After, int Cost);

    /// <summary>Processes with callers, until they are stopped.</summary>
    private sealed class History : IAsyncDisposable
    {
        private readonly ConcurrentQueue<Used> _used = new();
        private readonly List<(LimiterNode Node, NodeClock Clock, CancellationTokenSource Stop, Task Callers)> _nodes = [];
        private readonly string _redis;
        private readonly string _prefix = LimiterNode.NewPrefix();
        private readonly RateLimitPolicy _policy;
        private readonly Random _random;

        public History(string redis, RateLimitPolicy policy, Random random)
        {
            (_redis, _policy, _random) = (redis, policy, random);
            for (var node = 0; node < 3; node++)
            {
                StartOne();
            }
        }

        public static double Now => (TimeProvider.System.GetUtcNow() - DateTimeOffset.UnixEpoch).TotalMilliseconds;

        public Task<long> UsedAsync() => _nodes[0].Node.UsedAsync(_policy);

        /// <summary>Crashes one process, starts another, and sets a wall clock.</summary>
        public async Task CrashOneAsync()
        {
            var crashed = _nodes[0];
            _nodes.RemoveAt(0);
            crashed.Clock.Crash();
            await crashed.Stop.CancelAsync();
            await crashed.Callers;
            await crashed.Node.CrashAsync();
            StartOne();
            _nodes[0].Clock.Skew = TimeSpan.FromMinutes(_random.Next(-60, 60));
        }

        /// <summary>Stops the callers.</summary>
        public async Task<Used[]> StopAsync()
        {
            foreach (var (_, _, stop, callers) in _nodes)
            {
                await stop.CancelAsync();
                await callers;
            }

            return [.. _used];
        }

        public async ValueTask DisposeAsync()
        {
            foreach (var (node, _, stop, _) in _nodes)
            {
                await stop.CancelAsync();
                await node.DisposeAsync();
                stop.Dispose();
            }
        }

        private void StartOne()
        {
            var (clock, stop) = (new NodeClock(), new CancellationTokenSource());
            var node = new LimiterNode(_redis, _prefix, clock);
            var callers = Task.WhenAll(Enumerable.Range(0, 3).Select(_ =>
            {
                var random = new Random(_random.Next());
                return Task.Run(() => CallAsync(node, random, stop.Token));
            }));
            _nodes.Add((node, clock, stop, callers));
        }

        private async Task CallAsync(LimiterNode node, Random random, CancellationToken stop)
        {
            while (!stop.IsCancellationRequested)
            {
                for (var burst = random.Next(200); burst > 0 && !stop.IsCancellationRequested; burst--)
                {
                    var cost = random.Next(10) == 0 ? 3 : 1;
                    var before = Now;
                    var decision = await node.DecideAsync(node.Request(_policy, cost: cost));
                    if (decision is { Allowed: true, Policies: [{ By: RateLimitMetrics.Allowed }] })
                    {
                        _used.Enqueue(new(before, Now, cost));
                    }
                }

                await Task.Delay(random.Next(40), CancellationToken.None);
            }
        }
    }
}
