using System.Net;
using System.Text.Json;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Weather;

/// <summary>The stand-in gives the same answers as the real service.</summary>
public sealed class FakeOpenMeteoTests
{
    [Theory]
    [InlineData(
        "/v1/search?name=berl",
        200,
        """^\{"results":\[\{"id":2950159,"name":"Berlin","latitude":52\.52437,"longitude":13\.41053,"elevation":74"""
        + ""","feature_code":"PPL","country_code":"DE","timezone":"Europe/Berlin","population":3426354,"country":"Germany"\}\]"""
        + ""","generationtime_ms":[\d.E-]+\}$""")]
    [InlineData("/v1/search?name=atlantis", 200, """^\{"generationtime_ms":[\d.E-]+\}$""")]
    [InlineData("/v1/search?name=b", 200, """^\{"generationtime_ms":[\d.E-]+\}$""")]
    [InlineData("/v1/search?name=be", 200, """^\{"generationtime_ms":[\d.E-]+\}$""")]
    [InlineData(
        "/v1/search?name=null",
        200,
        """^\{"results":\[\{"id":7730009,"name":"Null Island","feature_code":"PPL"\}\],"generationtime_ms":[\d.E-]+\}$""")]
    [InlineData("/v1/search?name=m%C3%BCnchen", 200, "\"name\":\"Munich\"")]
    [InlineData("/v1/search?name=paris,%20us&count=1", 200, "\"country\":\"United States\"")]
    [InlineData("/v1/search?name=berlin&count=0", 400, """^\{"error":true,"reason":"Parameter count must be between 1 and 100\."\}$""")]
    [InlineData(
        "/v1/forecast?latitude=52.52&longitude=13.41&current=temperature_2m,weather_code",
        200,
        """^\{"latitude":52\.5,"longitude":13\.4,"generationtime_ms":[\d.E-]+,"utc_offset_seconds":0"""
        + ""","timezone":"GMT","timezone_abbreviation":"GMT","elevation":38"""
        + ""","current_units":\{"time":"iso8601","interval":"seconds","temperature_2m":"°C","weather_code":"wmo code"\}"""
        + ""","current":\{"time":"\d{4}-\d\d-\d\dT\d\d:(00|15|30|45)","interval":900"""
        + ""","temperature_2m":-?[\d.]+,"weather_code":\d+\}\}$""")]
    [InlineData(
        "/v1/forecast?latitude=91&longitude=13.41",
        400,
        """^\{"error":true,"reason":"Latitude must be in range of -90 to 90°\. Given: 91\.0\."\}$""")]
    [InlineData("/v1/forecast?latitude=52.52", 400, "\"error\":true")]
    [InlineData(
        "/v1/forecast?latitude=52.52&longitude=13.41&current=tempeture_2m",
        400,
        "from invalid String value tempeture_2m for key current")]
    public async Task It_answers_as_the_real_one_does(string path, int status, string body)
    {
        await using var fake = await FakeOpenMeteo.StartAsync(TimeProvider.System, "--urls", "http://127.0.0.1:0");
        using var client = new HttpClient { BaseAddress = new(fake.Address) };

        var answer = await client.GetAsync(path);

        Assert.Equal(status, (int)answer.StatusCode);
        Assert.Matches(body, await answer.Content.ReadAsStringAsync());
        Assert.Equal("true", answer.Header("X-Fake-Upstream"));
        Assert.Equal("", answer.Header("Retry-After"));
    }

    [Fact]
    public async Task It_answers_one_request_at_a_time_lets_five_wait_and_refuses_the_others()
    {
        await using var fake = await FakeOpenMeteo.StartAsync(TimeProvider.System, "--urls", "http://127.0.0.1:0");
        using var client = new HttpClient { BaseAddress = new(fake.Address) };
        fake.Fault = UpstreamFault.Hang;
        using var stop = new CancellationTokenSource();
        var held = Enumerable.Range(0, 6).Select(_ => client.GetAsync("/v1/search?name=berlin", stop.Token)).ToArray();
        await Eventually.TrueAsync(() => fake.Calls.Count == 6);

        var refused = await client.GetAsync("/v1/search?name=berlin");

        Assert.Equal(HttpStatusCode.TooManyRequests, refused.StatusCode);
        Assert.Equal(
            "Too many concurrent requests",
            JsonSerializer.Deserialize<JsonElement>(await refused.Content.ReadAsStringAsync()).GetProperty("reason").GetString());
        await stop.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Task.WhenAll(held));
    }
}
