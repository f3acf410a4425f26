using System.Net;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Weather;

public sealed class PrewarmingTests(TestServers servers)
{
    private static readonly Dictionary<string, string> Cities = new()
    {
        ["Weather:Prewarm:0"] = "Berlin",
        ["Weather:Prewarm:1"] = "Zürich",
        ["Weather:Prewarm:2"] = "Paris, United States",
    };

    [Fact]
    public async Task The_configured_cities_are_warm_before_the_first_request()
    {
        await using var node = await WeatherNode.StartAsync(servers, Cities);
        await Eventually.TrueAsync(() => node.Upstream.CallsOf(FakeOpenMeteo.Forecast) == 3);
        await Eventually.TrueAsync(
            async () => await node.Api.MetricAsync("cache_loads_total", ("cache", "weather"), ("outcome", "loaded")) == 3);

        foreach (var city in new[] { "berlin", "zurich", "PARIS, UNITED STATES" })
        {
            await Eventually.TrueAsync(async () => CacheStatus.Of(await node.GetAsync(city)).Hit);
        }

        Assert.Equal(6, node.Upstream.Calls.Count);
        Assert.Equal(1, node.Upstream.MostAtOnce);
    }

    [Fact]
    public async Task Half_of_the_budget_is_left_for_clients()
    {
        await using var node = await WeatherNode.StartAsync(servers, new(Cities) { ["Weather:Budget:PerDay"] = "6" });
        await Eventually.TrueAsync(() => node.Upstream.CallsOf(FakeOpenMeteo.Forecast) == 2);

        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Madrid")).StatusCode);
        Assert.Equal(6, node.Upstream.Calls.Count);
        Assert.DoesNotContain(node.Upstream.Calls, call => call.Contains("paris", StringComparison.Ordinal));
    }

    [Fact]
    public async Task The_start_does_not_wait_for_the_upstream_and_survives_its_outage()
    {
        await using var node = await WeatherNode.StartAsync(servers, Cities, upstream => upstream.Fault = UpstreamFault.Hang);
        Assert.Equal(HttpStatusCode.OK, (await node.Api.Anonymous.GetAsync("/health/ready")).StatusCode);
        await Eventually.TrueAsync(() => node.Upstream.Calls.Count == 1);
        node.Upstream.Fault = UpstreamFault.None;
        await Eventually.TrueAsync(async () => (await node.GetAsync("Madrid")).StatusCode is HttpStatusCode.OK);
    }
}
