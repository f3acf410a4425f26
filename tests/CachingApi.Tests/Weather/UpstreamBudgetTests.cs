using System.Globalization;
using System.Net;
using CachingApi.FakeUpstream;
using CachingApi.Redis;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using CachingApi.Weather;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Weather;

public sealed class UpstreamBudgetTests(TestServers servers)
{
    [Fact]
    public async Task Two_nodes_share_a_budget_and_when_it_is_spent_cached_weather_is_served_stale_without_a_call()
    {
        var budget = new Dictionary<string, string> { ["Weather:Budget:PerDay"] = "4" };
        await using var node = await WeatherNode.StartAsync(servers, budget);
        await using var other = await ApiNode.StartAsync(
            servers, WeatherNode.Settings(node.Upstream, budget), nodeOf: node.Api, time: node.Time);

        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Berlin")).StatusCode);
        Assert.Equal(2, await node.Api.MetricAsync("weather_upstream_budget_left", ("window", "day")));
        Assert.Equal(HttpStatusCode.OK, (await other.Anonymous.GetAsync("/weather/madrid")).StatusCode);
        Assert.Equal(0, await other.MetricAsync("weather_upstream_budget_left", ("window", "day")));
        node.Time.AdjustTime(node.Time.GetUtcNow().AddHours(1));

        var stale = await node.GetAsync("Berlin");
        var none = await node.GetAsync("Rome");

        Assert.Equal((HttpStatusCode.OK, "stale-if-error"), (stale.StatusCode, CacheStatus.Of(stale).Detail));
        Assert.Equal(HttpStatusCode.ServiceUnavailable, none.StatusCode);
        Assert.InRange(
            int.Parse(none.Header("Retry-After"), CultureInfo.InvariantCulture),
            1,
            86_400 - TimeProvider.System.GetUtcNow().ToUnixTimeSeconds() % 86_400 + 60);
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
            await budget.SpendAsync(isNew: false, CancellationToken.None);
        }

        var outage = await Assert.ThrowsAsync<UnavailableException>(() => budget.SpendAsync(isNew: false, CancellationToken.None));
        Assert.InRange(outage.RetryAfter, TimeSpan.FromSeconds(1), TimeSpan.FromMinutes(1));
    }

    [Fact]
    public async Task Half_of_the_budget_is_kept_for_cities_that_were_found_before()
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { ["Weather:Budget:PerDay"] = "8" });
        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Berlin")).StatusCode);

        // Invented names, then existing cities.
        Assert.Equal(HttpStatusCode.NotFound, (await node.GetAsync("no such city 1")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await node.GetAsync("no such city 2")).StatusCode);
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await node.GetAsync("no such city 3")).StatusCode);
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await node.GetAsync("Rome")).StatusCode);
        Assert.Equal(4, await node.Api.MetricAsync("weather_upstream_budget_left", ("window", "day")));

        for (var observation = 0; observation < 4; observation++)
        {
            node.Time.Advance(TimeSpan.FromMinutes(20));
            Assert.Contains("; fwd=stale; stored", (await node.GetAsync("Berlin")).CacheStatus(), StringComparison.Ordinal);
        }

        Assert.Equal(0, await node.Api.MetricAsync("weather_upstream_budget_left", ("window", "day")));
    }

    [Fact]
    public async Task A_city_that_was_found_and_whose_weather_was_not_counts_as_new()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        node.Upstream.Fault = UpstreamFault.BadRequest;
        node.Upstream.FailingPath = FakeOpenMeteo.Forecast;
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await node.GetAsync("Berlin")).StatusCode);
        node.Upstream.Fault = UpstreamFault.None;
        var before = await NewAsync();

        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Berlin")).StatusCode);

        Assert.Equal(before + 1, await NewAsync());
        async Task<long> NewAsync()
        {
            var redis = node.Api.Services.GetRequiredService<RedisConnections>();
            return (long)await redis.State.HashGetAsync($"{node.Api.KeyPrefix}:weather-budget", "new3");
        }
    }

    [Fact]
    public async Task A_city_that_is_not_cached_costs_more_permits_than_one_that_is()
    {
        await using var node = await LimitedAsync(("weather:Limit", "9"), ("weather:Window", "1.00:00:00"));

        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Berlin")).StatusCode); // 3
        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Berlin")).StatusCode); // 1
        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Rome")).StatusCode); // 3
        var denied = await node.GetAsync("Madrid"); // 1 of 2
        await UserContractTests.AssertProblemAsync(denied, HttpStatusCode.TooManyRequests);
        Assert.NotEmpty(denied.Header("Retry-After"));
        Assert.Equal(4, node.Upstream.Calls.Count);
        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Rome")).StatusCode); // 1
        Assert.Equal(HttpStatusCode.TooManyRequests, (await node.GetAsync("Rome")).StatusCode);

        // Another client can look up the city at once.
        var other = await FromAsync(node, "Madrid", "203.0.113.1");
        Assert.Equal(HttpStatusCode.OK, other.StatusCode);
        for (var left = 6; left > 0; left--)
        {
            Assert.Equal(HttpStatusCode.OK, (await FromAsync(node, "Madrid", "203.0.113.1")).StatusCode);
        }

        Assert.Equal(HttpStatusCode.TooManyRequests, (await FromAsync(node, "Madrid", "203.0.113.1")).StatusCode);
    }

    [Fact]
    public async Task An_address_causes_so_many_look_ups_a_day_and_no_more()
    {
        await using var node = await LimitedAsync(("weather-miss:Limit", "2"));

        Assert.Equal(HttpStatusCode.NotFound, (await node.GetAsync("no such city 1")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await node.GetAsync("no such city 2")).StatusCode);
        var problem = await UserContractTests.AssertProblemAsync(await node.GetAsync("no such city 3"), HttpStatusCode.TooManyRequests);
        Assert.Equal("weather-miss", Assert.Single(problem.GetProperty("violated-policies").EnumerateArray()).GetString());
        Assert.Equal(HttpStatusCode.NotFound, (await node.GetAsync("no such city 1")).StatusCode);
        Assert.Equal(2, node.Upstream.Calls.Count);
        Assert.Equal(HttpStatusCode.NotFound, (await FromAsync(node, "no such city 3", "203.0.113.1")).StatusCode);
    }

    [Fact]
    public async Task A_network_causes_so_many_look_ups_a_day_together()
    {
        await using var node = await LimitedAsync(("weather-miss-network:Limit", "2"));

        Assert.Equal(HttpStatusCode.NotFound, (await FromAsync(node, "no such city 1", "203.0.113.1")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await FromAsync(node, "no such city 2", "203.0.113.2")).StatusCode);
        Assert.Equal(HttpStatusCode.TooManyRequests, (await FromAsync(node, "no such city 3", "203.0.113.3")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await FromAsync(node, "no such city 3", "203.0.114.1")).StatusCode);
    }

    [Fact]
    public async Task A_network_causes_so_many_refreshes_a_day_and_is_served_cached_weather_beyond_that()
    {
        await using var node = await LimitedAsync(("weather-refresh:Limit", "1"));
        string[] cities = ["Berlin", "Rome"];
        foreach (var city in cities)
        {
            Assert.Equal(HttpStatusCode.OK, (await node.GetAsync(city)).StatusCode);
        }

        node.Time.AdjustTime(node.Time.GetUtcNow().AddHours(1));
        var calls = node.Upstream.Calls.Count;
        var refreshed = await (await FromAsync(node, "Berlin", "203.0.113.1")).JsonAsync();
        var denied = await FromAsync(node, "Rome", "203.0.113.2");
        var kept = await denied.JsonAsync();

        Assert.Equal((false, true), (refreshed.GetProperty("stale").GetBoolean(), kept.GetProperty("stale").GetBoolean()));
        Assert.Contains("detail=stale-while-revalidate", denied.Header("Cache-Status"), StringComparison.Ordinal);
        Assert.Equal(calls + 1, node.Upstream.Calls.Count);
        Assert.False((await (await FromAsync(node, "Rome", "203.0.114.1")).JsonAsync()).GetProperty("stale").GetBoolean());
    }

    private Task<WeatherNode> LimitedAsync(params (string Name, string Value)[] settings)
    {
        var all = settings.ToDictionary(setting => $"RateLimits:Policies:{setting.Name}", setting => setting.Value);
        all["RateLimits:Enabled"] = "true";
        all["Network:KnownProxies:0"] = "127.0.0.1";
        return WeatherNode.StartAsync(servers, all);
    }

    private static async Task<HttpResponseMessage> FromAsync(WeatherNode node, string city, string address)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, $"/weather/{Uri.EscapeDataString(city)}");
        request.Headers.Add("X-Forwarded-For", address);
        return await node.Api.Anonymous.SendAsync(request);
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
