using System.Globalization;
using System.Net;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Weather;

public sealed class UpstreamFailureTests(TestServers servers)
{
    [Theory]
    [InlineData(UpstreamFault.BrokenJson, null, "broken")]
    [InlineData(UpstreamFault.EmptyJson, 200, "answered")]
    [InlineData(UpstreamFault.AbsurdJson, 200, "answered")]
    [InlineData(UpstreamFault.Overloaded, null, "failed")] // the breaker is open by then
    [InlineData(UpstreamFault.BadRequest, 400, "refused")]
    [InlineData(UpstreamFault.DailyLimit, null, "limited")] // no further calls are made
    [InlineData(UpstreamFault.Trickle, null, "timeout")]
    [InlineData(UpstreamFault.Hang, null, "timeout")]
    public async Task Nothing_bad_is_kept_and_cached_weather_is_served_stale(UpstreamFault fault, int? status, string outcome)
    {
        var isSlow = fault is UpstreamFault.Trickle or UpstreamFault.Hang;
        await using var node = await WeatherNode.StartAsync(servers, new() { ["Weather:Timeout"] = isSlow ? "00:00:03" : "00:00:10" });
        var fresh = await node.GetAsync("Berlin");
        node.Time.AdjustTime(node.Time.GetUtcNow().AddHours(1));
        var keys = (await node.Api.KeysAsync()).Where(key => key.StartsWith("geocoding:g", StringComparison.Ordinal)).ToArray();
        node.Upstream.Fault = fault;

        // The cached weather is served and marked as stale.
        var stale = await node.GetAsync("Berlin");
        Assert.Equal(HttpStatusCode.OK, stale.StatusCode);
        var (before, after) = (await fresh.JsonAsync(), await stale.JsonAsync());
        Assert.Equal((false, true), (before.GetProperty("stale").GetBoolean(), after.GetProperty("stale").GetBoolean()));
        Assert.Equal("2026-10-01T12:00:00Z", after.GetProperty("observedAt").GetString());
        Assert.Equal(before.GetProperty("temperature").GetDouble(), after.GetProperty("temperature").GetDouble());
        var cacheStatus = CacheStatus.Of(stale);
        Assert.Equal((true, "stale-if-error"), (cacheStatus.Hit, cacheStatus.Detail));
        Assert.InRange(cacheStatus.Ttl!.Value, -3600, -1);
        Assert.Equal("3600", stale.Header("Age"));
        Assert.NotEqual(fresh.ETag(), stale.ETag());
        Assert.True(await node.CallsAsync(outcome) >= 1);

        // Without a cached entry it is an outage, which is not cached.
        var none = await node.GetAsync("Madrid");
        Assert.Equal(
            (HttpStatusCode.ServiceUnavailable, "application/problem+json"),
            (none.StatusCode, none.Content.Headers.ContentType!.MediaType));
        Assert.InRange(int.Parse(none.Header("Retry-After"), CultureInfo.InvariantCulture), 1, 86_400);
        Assert.Equal("uri-miss", CacheStatus.Of(none).Forwarded);
        Assert.False(CacheStatus.Of(none).Stored);
        Assert.Equal(status, CacheStatus.Of(none).ForwardedStatus);
        Assert.Equal(keys, (await node.Api.KeysAsync()).Where(key => key.StartsWith("geocoding:g", StringComparison.Ordinal)));

        // When the fault ends, so does the outage.
        if (fault is not UpstreamFault.DailyLimit)
        {
            node.Upstream.Fault = UpstreamFault.None;
            await Eventually.TrueAsync(async () => (await node.GetAsync("Madrid")).StatusCode is HttpStatusCode.OK);
            await Eventually.TrueAsync(async () => !(await (await node.GetAsync("Berlin")).JsonAsync()).GetProperty("stale").GetBoolean());
            Assert.True(CacheStatus.Of(await node.GetAsync("Berlin")).Hit);
        }
    }

    [Theory]
    [InlineData(UpstreamFault.MinutelyLimit, 60)]
    [InlineData(UpstreamFault.HourlyLimit, 3_600)]
    [InlineData(UpstreamFault.DailyLimit, 86_400)]
    public async Task A_limits_reason_gives_the_time_until_which_no_node_calls_again(UpstreamFault fault, int window)
    {
        await using var node = await WeatherNode.StartAsync(servers, upstreamIs: upstream => upstream.Fault = fault);
        await using var other = await ApiNode.StartAsync(servers, WeatherNode.Settings(node.Upstream), nodeOf: node.Api, time: node.Time);
        int Left() => window - (int)(TimeProvider.System.GetUtcNow().ToUnixTimeSeconds() % window);

        // If a new minute began between the two requests, the second one would call the upstream again.
        await Eventually.TrueAsync(() => Left() > 25);
        var (before, first) = (Left(), await node.GetAsync("Berlin"));
        var second = await other.Anonymous.GetAsync("/weather/madrid");

        Assert.Equal((HttpStatusCode.ServiceUnavailable, HttpStatusCode.ServiceUnavailable), (first.StatusCode, second.StatusCode));
        Assert.Equal(429, CacheStatus.Of(first).ForwardedStatus);
        Assert.InRange(int.Parse(first.Header("Retry-After"), CultureInfo.InvariantCulture), Math.Max(1, before - 60), before);
        Assert.InRange(int.Parse(second.Header("Retry-After"), CultureInfo.InvariantCulture), Math.Max(1, before - 60), before);
        Assert.Single(node.Upstream.Calls);
    }

    [Fact]
    public async Task An_impossible_time_is_not_an_observation()
    {
        await using var node = await WeatherNode.StartAsync(
            servers, upstreamIs: upstream => (upstream.Fault, upstream.FailingPath) = (UpstreamFault.AbsurdJson, FakeOpenMeteo.Forecast));
        var answer = await node.GetAsync("Berlin");
        Assert.Equal((HttpStatusCode.ServiceUnavailable, 200), (answer.StatusCode, CacheStatus.Of(answer).ForwardedStatus));
    }

    [Fact]
    public async Task A_slow_upstream_is_not_waited_for_while_an_entry_is_cached()
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { ["Cache:SoftTimeout"] = "00:00:00.100" });
        await node.GetAsync("Berlin");
        node.Time.AdjustTime(node.Time.GetUtcNow().AddHours(1));
        node.Upstream.Delay = TimeSpan.FromSeconds(2);

        var stale = await node.GetAsync("Berlin");

        Assert.Equal((true, "stale-while-revalidate"), (CacheStatus.Of(stale).Hit, CacheStatus.Of(stale).Detail));
        Assert.True((await stale.JsonAsync()).GetProperty("stale").GetBoolean());
        await Eventually.TrueAsync(async () => !(await (await node.GetAsync("Berlin")).JsonAsync()).GetProperty("stale").GetBoolean());
        Assert.Equal(2, node.Upstream.CallsOf(FakeOpenMeteo.Forecast));
    }

    [Theory]
    [InlineData(UpstreamFault.Overloaded)]
    [InlineData(UpstreamFault.BrokenJson)]
    public async Task A_failure_that_passes_is_tried_again_and_clients_do_not_notice(UpstreamFault fault)
    {
        await using var node = await WeatherNode.StartAsync(
            servers, upstreamIs: upstream => (upstream.Fault, upstream.Failures) = (fault, 2));
        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Berlin")).StatusCode);
        Assert.Equal(3, node.Upstream.CallsOf(FakeOpenMeteo.Search));
    }

    [Theory]
    [InlineData(UpstreamFault.BadRequest)]
    [InlineData(UpstreamFault.MinutelyLimit)]
    [InlineData(UpstreamFault.Hang)]
    public async Task A_failure_that_does_not_pass_is_not_tried_again(UpstreamFault fault)
    {
        await using var node = await WeatherNode.StartAsync(
            servers, new() { ["Weather:Timeout"] = "00:00:00.500" }, upstream => (upstream.Fault, upstream.Failures) = (fault, 1));
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await node.GetAsync("Berlin")).StatusCode);
        Assert.Single(node.Upstream.Calls);
    }

    [Fact]
    public async Task After_several_failures_the_breaker_stops_calls_for_a_while()
    {
        await using var node = await WeatherNode.StartAsync(servers, upstreamIs: upstream => upstream.Fault = UpstreamFault.Overloaded);
        foreach (var city in new[] { "Berlin", "Madrid" })
        {
            var failed = await node.GetAsync(city);
            Assert.Equal((HttpStatusCode.ServiceUnavailable, 503), (failed.StatusCode, CacheStatus.Of(failed).ForwardedStatus));
        }

        Assert.Equal(6, node.Upstream.Calls.Count);
        node.Upstream.Fault = UpstreamFault.None;
        var refused = await node.GetAsync("Rome");

        Assert.Equal(HttpStatusCode.ServiceUnavailable, refused.StatusCode);
        Assert.InRange(int.Parse(refused.Header("Retry-After"), CultureInfo.InvariantCulture), 1, 5);
        Assert.Equal(6, node.Upstream.Calls.Count);
        await Eventually.TrueAsync(async () => (await node.GetAsync("Rome")).StatusCode is HttpStatusCode.OK);
    }

    [Fact]
    public async Task An_upstream_that_is_not_there_is_an_outage()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var answer = await api.Anonymous.GetAsync("/weather/berlin");
        Assert.Equal((HttpStatusCode.ServiceUnavailable, "1"), (answer.StatusCode, answer.Header("Retry-After")));
        Assert.Equal(("uri-miss", "unavailable"), (CacheStatus.Of(answer).Forwarded, CacheStatus.Of(answer).Detail));
        Assert.Equal(3, await api.MetricAsync("weather_upstream_calls_total", ("api", "search"), ("outcome", "unreachable")));
    }
}
