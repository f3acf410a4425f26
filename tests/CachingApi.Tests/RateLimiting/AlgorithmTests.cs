using System.Globalization;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using StackExchange.Redis;

namespace CachingApi.Tests.RateLimiting;

/// <summary>The algorithms by themselves, in both languages.</summary>
public sealed class AlgorithmTests(TestServers servers)
{
    private const long Now = 1_795_382_507_123;

    public static TheoryData<string> Names => ["fixed-window", "sliding-window", "sliding-window-counter", "token-bucket"];

    [Theory]
    [MemberData(nameof(Names))]
    public async Task Both_languages_agree_to_the_last_permit(string name)
    {
        var seed = Random.Shared.Next();
        var random = new Random(seed);
        await using var connection = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var redis = connection.GetDatabase();
        var script = $$"""
            local algorithms = {}
            {{Lua.Load(typeof(Algorithm), "fixed_window.lua")}}
            {{Lua.Load(typeof(Algorithm), "sliding_window.lua")}}
            {{Lua.Load(typeof(Algorithm), "sliding_window_counter.lua")}}
            {{Lua.Load(typeof(Algorithm), "token_bucket.lua")}}
            local wait, available, reset, state, life = algorithms[ARGV[1]](
              ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]))
            return { wait, math.max(0, available), reset, state, life }
            """;

        foreach (var (limit, window) in new[] { (10, 1000L), (7, 1001L), (1, 60_000L), (1000, 2_678_400_000L) })
        {
            var (algorithm, state, now, granted, log) = (Algorithm.New(name), (RedisValue)"", Now, false, new List<string>());
            for (var step = 0; step < 200; step++)
            {
                // Mostly forward by a little, sometimes by a window. Sometimes the clock is set back, but not after a rejection, because
                // Redis stores nothing for a rejection.
                now += random.Next(10) switch
                {
                    0 => window,
                    1 => granted ? -random.Next(50) : 0,
                    2 => 0,
                    _ => random.NextInt64(1 + window / limit * 2),
                };
                var cost = random.Next(8) == 0 ? -1 : random.Next(1, Math.Min(limit, 4) + 1);
                log.Add($"{now} {cost}");

                var here = algorithm.Acquire(now, limit, window, cost);
                var there = (RedisResult[])(await redis.ScriptEvaluateAsync(script, [], [name, state, now, limit, window, cost]))!;

                Assert.True(here.Wait == (long)there[0] && here.Available == (long)there[1] && (cost < 0 || here.Reset == (long)there[2]),
                    $"seed {seed}, limit {limit}, window {window}: {here} here, {there[0]} {there[1]} {there[2]} there, "
                    + $"after {string.Join(", ", log.TakeLast(20))}");
                Assert.InRange((long)there[4], here.Granted && cost > 0 ? 1 : 0, 2 * window + 1000);
                granted = here.Granted;
                if (granted)
                {
                    state = (RedisValue)there[3];
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public async Task Both_languages_agree_on_refunds_of_earlier_grants_and_on_a_clock_that_is_set_back(string name)
    {
        var seed = Random.Shared.Next();
        var random = new Random(seed);
        await using var connection = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var redis = connection.GetDatabase();
        var script = $$"""
            local algorithms = {}
            {{Lua.Load(typeof(Algorithm), $"{name.Replace('-', '_')}.lua")}}
            local wait, available, reset, state, life = algorithms[ARGV[1]](
              ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]))
            return { wait, math.max(0, available), reset, state, life }
            """;

        foreach (var (limit, window) in new[] { (10, 1000L), (300, 5000L) })
        {
            var (algorithm, state, now, grants) = (Algorithm.New(name), (RedisValue)"", Now, new List<long> { Now });
            for (var step = 0; step < 200; step++)
            {
                now += random.Next(8) switch { 0 => window, 1 => -random.NextInt64(2 * window), 2 => 0, _ => random.NextInt64(window / 4) };
                var cost = random.Next(2) == 0 ? -random.Next(1, 5) : random.Next(1, 5);
                var granted = cost < 0 ? grants[random.Next(Math.Max(0, grants.Count - 5), grants.Count)] : now;

                var here = algorithm.Acquire(now, limit, window, cost, granted);
                var there = (RedisResult[])(await redis.ScriptEvaluateAsync(script, [], [name, state, now, limit, window, cost, granted]))!;

                Assert.True(here.Wait == (long)there[0] && here.Available == (long)there[1] && (cost < 0 || here.Reset == (long)there[2]),
                    $"seed {seed}, step {step}, limit {limit}: {here} here, {there[0]} {there[1]} {there[2]} there");
                if (here.Granted)
                {
                    state = (RedisValue)there[3];
                    grants.Add(now);
                }
                else
                {
                    // Redis stores nothing for a rejection, so a clock that is set back after it would show a difference.
                    algorithm.Acquire(now, limit, window, 0);
                    state = (RedisValue)((RedisResult[])(await redis.ScriptEvaluateAsync(
                        script, [], [name, state, now, limit, window, 0, now]))!)[3];
                }
            }
        }
    }

    [Fact]
    public void A_clock_that_is_set_back_by_less_than_a_window_grants_no_permit_again()
    {
        foreach (var name in Names.Select(row => row.Data))
        {
            var (algorithm, now) = (Algorithm.New(name), Now - (Now % 10_000));
            Assert.True(algorithm.Acquire(now + 100, 10, 10_000, 10).Granted);
            foreach (var back in new[] { 0, 100, 5_000, 9_000, 50 })
            {
                var permits = algorithm.Acquire(now - back, 10, 10_000, 1);
                Assert.False(permits.Granted, name);
                Assert.InRange(permits.Wait, 1, 30_000);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_client_is_allowed_after_the_given_time_and_not_a_millisecond_earlier(string name)
    {
        var random = new Random(7);
        for (var round = 0; round < 50; round++)
        {
            var (algorithm, now, limit, window) = (
                Algorithm.New(name), Now + random.Next(100_000), random.Next(1, 20), random.NextInt64(1000, 100_000));
            for (var request = 0; request < 200; request++)
            {
                var permits = algorithm.Acquire(now, limit, window, 1);
                if (permits.Granted)
                {
                    now += random.NextInt64(window / limit / 2 + 1);
                    continue;
                }

                Assert.Equal(0, permits.Available);
                Assert.InRange(permits.Wait, 1, 2 * window);
                Assert.False(algorithm.Acquire(now + permits.Wait - 1, limit, window, 1).Granted);
                now += permits.Wait;
                Assert.True(algorithm.Acquire(now, limit, window, 1).Granted);
            }
        }
    }

    [Fact]
    public void A_sliding_window_never_holds_more_than_its_limit_and_a_bucket_never_more_than_it_has_and_gets()
    {
        var random = new Random(11);
        foreach (var name in new[] { "sliding-window", "token-bucket" })
        {
            var (algorithm, now, granted) = (Algorithm.New(name), Now, new List<long>());
            for (var request = 0; request < 5000; request++)
            {
                now += random.Next(40);
                if (algorithm.Acquire(now, 10, 1000, 1).Granted)
                {
                    granted.Add(now);
                }
            }

            for (var first = 0; first + 10 < granted.Count; first++)
            {
                if (name == "sliding-window")
                {
                    Assert.True(granted[first + 10] - granted[first] > 1000);
                }

                var last = Math.Min(granted.Count - 1, first + 100);
                Assert.True(name == "sliding-window" || last - first + 1 <= 10 + (granted[last] - granted[first]) * 10 / 1000 + 1);
            }
        }
    }

    [Fact]
    public void A_raised_limit_counts_at_once_and_a_lowered_one_denies_until_it_is_met()
    {
        foreach (var name in Names.Select(row => row.Data))
        {
            var algorithm = Algorithm.New(name);
            for (var request = 0; request < 10; request++)
            {
                Assert.True(algorithm.Acquire(Now, 10, 60_000, 1).Granted);
            }

            Assert.False(algorithm.Acquire(Now, 10, 60_000, 1).Granted);
            Assert.Equal(10, algorithm.Acquire(Now, 20, 60_000, 1).Available);
            var lowered = algorithm.Acquire(Now, 5, 60_000, 1);
            Assert.False(lowered.Granted);
            Assert.Equal(0, lowered.Available);
            Assert.True(
                algorithm.Acquire(Now + lowered.Wait, 5, 60_000, 1).Granted,
                $"{name} {string.Create(CultureInfo.InvariantCulture, $"{lowered.Wait}")}");
        }
    }
}
