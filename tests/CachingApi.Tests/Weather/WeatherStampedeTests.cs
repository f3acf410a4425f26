using System.Net;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Weather;

public sealed class WeatherStampedeTests(TestServers servers)
{
    [Fact]
    public async Task A_thousand_requests_for_a_cold_city_over_two_nodes_are_one_search_and_one_forecast()
    {
        await using var node = await WeatherNode.StartAsync(
            servers, upstreamIs: upstream => upstream.Delay = TimeSpan.FromMilliseconds(300));
        await using var other = await ApiNode.StartAsync(servers, WeatherNode.Settings(node.Upstream), nodeOf: node.Api, time: node.Time);
        ApiNode[] nodes = [node.Api, other];
        string[] spellings = ["Zürich", "zurich", "%20Z%C3%9CRICH%20"];

        var answers = await Task.WhenAll(Enumerable.Range(0, 1000).Select(reader =>
            nodes[reader % 2].Anonymous.GetAsync($"/weather/{spellings[reader % 3]}?units={(reader % 5 == 0 ? "imperial" : "metric")}")));

        Assert.All(answers, answer => Assert.Equal(HttpStatusCode.OK, answer.StatusCode));
        Assert.Equal((1, 1), (node.Upstream.CallsOf(FakeOpenMeteo.Search), node.Upstream.CallsOf(FakeOpenMeteo.Forecast)));
        var statuses = answers.Select(CacheStatus.Of).ToArray();
        Assert.Contains(statuses, status => status is { Forwarded: "uri-miss", Stored: true, Collapsed: false });
        Assert.Contains(statuses, status => status is { Forwarded: "uri-miss", Collapsed: true });
    }

    [Fact]
    public async Task Many_cities_at_once_reach_the_upstream_one_at_a_time()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        var cities = City.All.Select(city => city.Names[0]).Distinct().ToArray();

        var answers = await Task.WhenAll(cities.Select(city => node.GetAsync(city)));

        Assert.All(answers, answer => Assert.Equal(HttpStatusCode.OK, answer.StatusCode));
        Assert.Equal(1, node.Upstream.MostAtOnce);
    }
}
