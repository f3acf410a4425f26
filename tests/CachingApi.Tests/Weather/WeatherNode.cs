using System.Globalization;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Tests.Weather;

/// <summary>A node, or two, and their upstream, all with one clock that the test controls.</summary>
internal sealed class WeatherNode : IAsyncDisposable
{
    private WeatherNode(ApiNode api, FakeOpenMeteo upstream, FakeTimeProvider time) => (Api, Upstream, Time) = (api, upstream, time);

    public ApiNode Api { get; }

    public FakeOpenMeteo Upstream { get; }

    public FakeTimeProvider Time { get; }

    /// <summary>Starts a node, five minutes after an observation.</summary>
    public static async Task<WeatherNode> StartAsync(
        TestServers servers, Dictionary<string, string>? settings = null, Action<FakeOpenMeteo>? upstreamIs = null)
    {
        var time = new FakeTimeProvider(DateTimeOffset.Parse("2026-10-01T12:05:00Z", CultureInfo.InvariantCulture));
        var upstream = await FakeOpenMeteo.StartAsync(time, "--urls", "http://127.0.0.1:0");
        upstreamIs?.Invoke(upstream);
        return new(await ApiNode.StartAsync(servers, Settings(upstream, settings), time: time), upstream, time);
    }

    public static Dictionary<string, string> Settings(FakeOpenMeteo upstream, Dictionary<string, string>? more = null)
    {
        var settings = new Dictionary<string, string>
        {
            ["Weather:GeocodingUrl"] = upstream.Address,
            ["Weather:ForecastUrl"] = upstream.Address,
            // On a busy machine, even a fast load may be slow.
            ["Cache:SoftTimeout"] = "00:00:05",
            ["Weather:Timeout"] = "00:00:05",
        };
        foreach (var (name, value) in more ?? [])
        {
            settings[name] = value;
        }

        return settings;
    }

    public Task<HttpResponseMessage> GetAsync(string city, string query = "") =>
        Api.Anonymous.GetAsync($"/weather/{Uri.EscapeDataString(city)}{query}");

    public Task<double> CallsAsync(string outcome) => Api.MetricAsync("weather_upstream_calls_total", ("outcome", outcome));

    public async ValueTask DisposeAsync()
    {
        await Api.DisposeAsync();
        await Upstream.DisposeAsync();
    }
}
