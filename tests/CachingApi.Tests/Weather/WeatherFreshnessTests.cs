using System.Net;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Weather;

/// <summary>The clock starts at 12:05; the current observation is from 12:00, and the next one is due at 12:15.</summary>
public sealed class WeatherFreshnessTests(TestServers servers)
{
    [Fact]
    public async Task An_observation_is_fresh_until_the_next_one_is_due_and_a_tenth_longer_at_most()
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { ["Cache:Weather:EarlyRefresh"] = "false" });
        await node.GetAsync("Berlin");

        node.Time.Advance(TimeSpan.FromSeconds(599));
        Assert.True(CacheStatus.Of(await node.GetAsync("Berlin")).Hit);

        node.Time.Advance(TimeSpan.FromSeconds(92));
        var next = await node.GetAsync("Berlin");
        Assert.Equal(("stale", true), (CacheStatus.Of(next).Forwarded, CacheStatus.Of(next).Stored));
        Assert.Equal("2026-10-01T12:15:00Z", (await next.JsonAsync()).GetProperty("observedAt").GetString());
        Assert.Equal((1, 2), (node.Upstream.CallsOf(FakeOpenMeteo.Search), node.Upstream.CallsOf(FakeOpenMeteo.Forecast)));
    }

    [Fact]
    public async Task Its_end_is_different_for_each_place()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        var ttls = new List<long>();
        foreach (var city in new[] { "Berlin", "Madrid", "Rome", "Tokyo", "Sydney", "Vienna" })
        {
            await node.GetAsync(city);
            ttls.Add(CacheStatus.Of(await node.GetAsync(city)).Ttl!.Value);
        }

        Assert.All(ttls, ttl => Assert.InRange(ttl, 600, 690));
        Assert.True(ttls.Distinct().Count() > 1, string.Join(' ', ttls));
    }

    [Fact]
    public async Task The_ttl_is_the_upper_bound()
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { ["Cache:Weather:Ttl"] = "00:00:30" });
        await node.GetAsync("Berlin");
        Assert.InRange(CacheStatus.Of(await node.GetAsync("Berlin")).Ttl!.Value, 26, 30);
    }

    [Fact]
    public async Task An_upstream_that_is_late_is_asked_again_once_a_minute()
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { ["Cache:Weather:EarlyRefresh"] = "false" });
        // The upstream's time is an hour behind, so its newest observation was due to be replaced long ago.
        node.Upstream.UtcOffset = TimeSpan.FromHours(-1);
        node.Upstream.ReportsOffset = false;
        await node.GetAsync("Berlin");

        var hit = CacheStatus.Of(await node.GetAsync("Berlin"));
        Assert.True(hit.Hit);
        Assert.InRange(hit.Ttl!.Value, 59, 60);
        node.Time.Advance(TimeSpan.FromSeconds(61));
        Assert.Equal("stale", CacheStatus.Of(await node.GetAsync("Berlin")).Forwarded);
    }

    [Fact]
    public async Task The_place_of_a_city_may_be_stale_while_its_weather_is_fresh()
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { ["Cache:Geocoding:Ttl"] = "00:01:00" });
        await node.GetAsync("Berlin");
        node.Time.Advance(TimeSpan.FromMinutes(2));
        node.Upstream.Fault = UpstreamFault.BadRequest;

        var answer = await node.GetAsync("Berlin");

        Assert.True(CacheStatus.Of(answer) is { Hit: true, Detail: "redis", Ttl: > 0 });
        Assert.False((await answer.JsonAsync()).GetProperty("stale").GetBoolean());
        Assert.Equal(2, node.Upstream.CallsOf(FakeOpenMeteo.Search));
    }

    [Fact]
    public async Task The_place_of_a_city_is_cached_for_days()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        await node.GetAsync("Berlin");

        // Redis has its own clock, so it still has the entry, which is fresh by the clock of the service.
        node.Time.AdjustTime(node.Time.GetUtcNow().AddDays(26)); // unlike Advance, it runs no timers, of which there would be millions
        Assert.Equal(HttpStatusCode.OK, (await node.GetAsync("Berlin")).StatusCode);

        Assert.Equal((1, 2), (node.Upstream.CallsOf(FakeOpenMeteo.Search), node.Upstream.CallsOf(FakeOpenMeteo.Forecast)));
    }
}
