using System.Globalization;
using System.Net;
using CachingApi.FakeUpstream;
using CachingApi.Storage;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Weather;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Weather;

public sealed class UpstreamBudgetTests(TestServers servers)
{
    [Fact]
    public async Task Two_nodes_share_a_budget_and_when_it_is_spent_what_is_kept_is_served_stale_and_nobody_is_asked()
    {
        var budget = new Dictionary<string, string> { ["Weather:Budget:PerDay"] = "4" };
        await using var node = await WeatherNode.StartAsync(servers, budget);
        await using var other = await ApiNode.StartAsync(servers, WeatherNode.Settings(node.Upstream, budget), nodeOf: node.Api, time: node.Time);

        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Berlin")).StatusCode);
        Assert.Equal(2, await node.Api.MetricAsync("weather_upstream_budget_left", ("window", "day")));
        Assert.Equal(HttpStatusCode.OK, (await other.Anonymous.GetAsync("/weather/madrid")).StatusCode);
        Assert.Equal(0, await other.MetricAsync("weather_upstream_budget_left", ("window", "day")));
        node.Time.Advance(TimeSpan.FromHours(1));

        var stale = await node.GetAsync("Berlin");
        var none = await node.GetAsync("Rome");

        Assert.Equal((HttpStatusCode.OK, "stale-if-error"), (stale.StatusCode, CacheStatus.Of(stale).Detail));
        Assert.Equal(HttpStatusCode.ServiceUnavailable, none.StatusCode);
        Assert.InRange(
            int.Parse(none.Header("Retry-After"), CultureInfo.InvariantCulture), 1, 86_400 - TimeProvider.System.GetUtcNow().ToUnixTimeSeconds() % 86_400 + 60);
        Assert.Equal(4, node.Upstream.Calls.Count);
        Assert.Equal(2, await node.CallsAsync("answered"));
    }

    [Theory]
    [InlineData("PerMinute", "minute")]
    [InlineData("PerHour", "hour")]
    [InlineData("PerDay", "day")]
    public async Task Every_window_has_its_budget_and_its_measure(string setting, string window)
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { [$"Weather:Budget:{setting}"] = "2" });
        // Two calls, in one minute by Redis's clock.
        await Eventually.TrueAsync(() => TimeProvider.System.GetUtcNow().Second < 35);
        await node.GetAsync("Berlin");

        Assert.Equal(0, await node.Api.MetricAsync("weather_upstream_budget_left", ("window", window)));
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await node.GetAsync("Rome")).StatusCode);
        Assert.Equal(2, node.Upstream.Calls.Count);
    }

    [Fact]
    public async Task A_window_that_has_ended_counts_no_more_and_the_key_expires()
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { ["Weather:Budget:PerHour"] = "2" });
        await node.GetAsync("Berlin");
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await node.GetAsync("Rome")).StatusCode);

        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var key = $"{node.Api.KeyPrefix}:weather-budget";
        Assert.NotNull(await redis.GetDatabase().KeyTimeToLiveAsync(key));
        await redis.GetDatabase().HashDecrementAsync(key, "window2");

        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Rome")).StatusCode);
    }

    [Fact]
    public async Task Without_redis_each_process_allows_itself_a_tenth_of_a_minute()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await WeatherNode.StartAsync(
            servers,
            new()
            {
                ["ConnectionStrings:Redis"] = redis.ConnectionString,
                ["Redis:StateDeadline"] = "00:00:00.100",
                ["Weather:Budget:PerMinute"] = "40",
            });
        await redis.KillAsync();
        var budget = node.Api.Services.GetRequiredService<UpstreamBudget>();

        for (var call = 0; call < 4; call++)
        {
            await budget.SpendAsync(CancellationToken.None);
        }

        var outage = await Assert.ThrowsAsync<UnavailableException>(() => budget.SpendAsync(CancellationToken.None));
        Assert.InRange(outage.RetryAfter, TimeSpan.FromSeconds(1), TimeSpan.FromMinutes(1));
    }

    [Fact]
    public async Task Calls_are_measured_by_api_and_outcome()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        await node.GetAsync("Berlin");
        (node.Upstream.Fault, node.Upstream.FailingPath) = (UpstreamFault.BadRequest, FakeOpenMeteo.Forecast);
        await node.GetAsync("Madrid");

        var metrics = await node.Api.Anonymous.GetStringAsync("/metrics");
        foreach (var sample in new[]
        {
            """weather_upstream_calls_total{api="search",outcome="answered"} 2""",
            """weather_upstream_calls_total{api="forecast",outcome="answered"} 1""",
            """weather_upstream_calls_total{api="forecast",outcome="refused"} 1""",
            """weather_upstream_call_duration_seconds_count{api="forecast"} 2""",
            """weather_upstream_budget_left{window="minute"} """,
            """cache_loads_total{cache="geocoding",outcome="loaded"} 2""",
            """cache_loads_total{cache="weather",outcome="failed"} 1""",
        })
        {
            Assert.Contains(sample, metrics, StringComparison.Ordinal);
        }

        Assert.DoesNotContain("berlin", metrics, StringComparison.OrdinalIgnoreCase);
    }
}
