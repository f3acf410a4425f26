using System.Globalization;
using System.Net;
using System.Text.Json;
using System.Text.RegularExpressions;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Weather;

namespace CachingApi.Tests.Weather;

public sealed class WeatherContractTests(TestServers servers)
{
    [Fact]
    public async Task The_answer_has_the_fields_of_the_contract()
    {
        await using var node = await WeatherNode.StartAsync(servers, upstreamIs: Sunny);

        var answer = await node.GetAsync("Zürich");

        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        Assert.Equal("application/json", answer.Content.Headers.ContentType!.MediaType);
        Assert.Equal(
            """{"city":"Zurich","country":"Switzerland","latitude":47.36667,"longitude":8.55,"temperature":20"""
            + ""","apparentTemperature":18.5,"humidity":58,"windSpeed":16.1,"conditions":"Partly cloudy","weatherCode":2"""
            + ""","units":"metric","observedAt":"2026-10-01T12:00:00Z","stale":false"""
            + ""","attribution":"Fake: invented by a stand-in for Open-Meteo.com"}""",
            await answer.Content.ReadAsStringAsync());
    }

    /// <remarks>A shared cache would show one client's permits to all others.</remarks>
    [Fact]
    public async Task An_answer_that_shared_caches_may_keep_has_no_headers_of_limits()
    {
        await using var node = await WeatherNode.StartAsync(servers, new() { ["RateLimits:Enabled"] = "true" }, Sunny);

        foreach (var city in new[] { "Zürich", "Nowhere at all" })
        {
            var answer = await node.GetAsync(city);
            Assert.StartsWith("public", answer.Header("Cache-Control"), StringComparison.Ordinal);
            Assert.Equal(("", ""), (answer.Header("RateLimit"), answer.Header("RateLimit-Policy")));
        }

        Assert.NotEmpty((await node.GetAsync("a/b")).Header("RateLimit")); // a 400 is for this client only
    }

    [Fact]
    public async Task Both_units_come_from_one_entry()
    {
        await using var node = await WeatherNode.StartAsync(servers, upstreamIs: Sunny);
        var metric = await node.GetAsync("Zurich", "?units=metric");

        var imperial = await node.GetAsync("Zurich", "?units=imperial");

        var report = await imperial.JsonAsync();
        Assert.True(CacheStatus.Of(imperial).Hit);
        Assert.Equal(
            ("imperial", 68, 65.3, 10, 58),
            (
                report.GetProperty("units").GetString(),
                Number(report, "temperature"),
                Number(report, "apparentTemperature"),
                Number(report, "windSpeed"),
                Number(report, "humidity")));
        Assert.Equal(metric.Header("Cache-Control"), imperial.Header("Cache-Control"));
        Assert.NotEqual(metric.ETag(), imperial.ETag());
        Assert.Equal((1, 1), (node.Upstream.CallsOf(FakeOpenMeteo.Search), node.Upstream.CallsOf(FakeOpenMeteo.Forecast)));
    }

    [Fact]
    public async Task A_miss_is_stored_then_hit_and_its_age_grows_within_what_cache_control_promises()
    {
        await using var node = await WeatherNode.StartAsync(servers);

        var miss = await node.GetAsync("Berlin");
        node.Time.Advance(TimeSpan.FromSeconds(90));
        var hit = await node.GetAsync("Berlin");

        var status = CacheStatus.Of(miss);
        Assert.Equal(("uri-miss", true, "0"), (status.Forwarded, status.Stored, miss.Header("Age")));
        status = CacheStatus.Of(hit);
        Assert.Equal((true, "redis", "90"), (status.Hit, status.Detail, hit.Header("Age")));

        // Fresh for the ten minutes until the next observation, and up to 90 seconds more; Age is counted from the same time.
        Assert.Equal(miss.Header("Cache-Control"), hit.Header("Cache-Control"));
        var directives = Regex.Match(
            hit.Header("Cache-Control"), @"^public, max-age=(\d+), stale-while-revalidate=1200, stale-if-error=86400$");
        Assert.True(directives.Success, hit.Header("Cache-Control"));
        var maxAge = int.Parse(directives.Groups[1].Value, CultureInfo.InvariantCulture);
        Assert.InRange(maxAge, 600, 690);
        Assert.InRange(status.Ttl!.Value, maxAge - 91, maxAge - 90);
    }

    [Fact]
    public async Task A_tag_that_holds_is_answered_by_304_with_its_headers_and_no_body()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        var first = await node.GetAsync("Berlin");
        Assert.False(first.ETag().IsWeak);

        async Task<HttpResponseMessage> AskAsync(string query)
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, $"/weather/berlin{query}");
            request.Headers.IfNoneMatch.Add(first.ETag());
            return await node.Api.Anonymous.SendAsync(request);
        }

        var same = await AskAsync("");
        Assert.Equal(
            (HttpStatusCode.NotModified, first.ETag(), 0),
            (same.StatusCode, same.ETag(), (await same.Content.ReadAsByteArrayAsync()).Length));
        Assert.Equal(
            (first.Header("Cache-Control"), "0", true), (same.Header("Cache-Control"), same.Header("Age"), CacheStatus.Of(same).Hit));

        Assert.Equal(HttpStatusCode.OK, (await AskAsync("?units=imperial")).StatusCode);
        node.Time.Advance(TimeSpan.FromMinutes(20));
        Assert.Equal(HttpStatusCode.OK, (await AskAsync("")).StatusCode);
    }

    [Fact]
    public async Task Not_found_is_cached_briefly()
    {
        await using var node = await WeatherNode.StartAsync(servers);

        var first = await node.GetAsync("Atlantis");
        var second = await node.GetAsync("ATLANTIS");
        Assert.Equal(
            (HttpStatusCode.NotFound, "application/problem+json"), (first.StatusCode, first.Content.Headers.ContentType!.MediaType));
        Assert.Equal(("uri-miss", true), (CacheStatus.Of(first).Forwarded, CacheStatus.Of(first).Stored));
        Assert.Equal((HttpStatusCode.NotFound, true), (second.StatusCode, CacheStatus.Of(second).Hit));
        Assert.Matches(@"^public, max-age=3[2-6]\d\d$", second.Header("Cache-Control"));
        Assert.Equal(1, node.Upstream.CallsOf(FakeOpenMeteo.Search));
        Assert.Equal(0, node.Upstream.CallsOf(FakeOpenMeteo.Forecast));

        node.Time.AdjustTime(node.Time.GetUtcNow().AddHours(1));
        await node.GetAsync("Atlantis");
        Assert.Equal(2, node.Upstream.CallsOf(FakeOpenMeteo.Search));
    }

    [Theory]
    [InlineData("?units=kelvin")]
    [InlineData("?units=")]
    [InlineData("?units=METRIC")]
    public async Task Other_units_are_refused(string query)
    {
        await using var node = await WeatherNode.StartAsync(servers);
        var answer = await node.GetAsync("Berlin", query);
        Assert.Equal(HttpStatusCode.BadRequest, answer.StatusCode);
        Assert.True((await answer.JsonAsync()).GetProperty("errors").TryGetProperty("units", out _));
        Assert.Empty(node.Upstream.Calls);
    }

    [Fact]
    public async Task Missing_and_impossible_values_of_the_upstream_are_zero_or_null_and_not_an_error()
    {
        await using var node = await WeatherNode.StartAsync(servers, upstreamIs: upstream =>
        {
            upstream.Values["temperature_2m"] = -0.04;
            upstream.Values["apparent_temperature"] = null;
            upstream.Values["relative_humidity_2m"] = null;
            upstream.Values["wind_speed_10m"] = double.PositiveInfinity;
            upstream.Values["weather_code"] = null;
        });

        var report = await (await node.GetAsync("Null Island")).JsonAsync();

        Assert.Equal(
            (0, 0, JsonValueKind.Null), (Number(report, "latitude"), Number(report, "longitude"), report.GetProperty("country").ValueKind));
        Assert.Equal("0", report.GetProperty("temperature").GetRawText());
        Assert.All(
            ["apparentTemperature", "humidity", "windSpeed", "weatherCode"],
            name => Assert.Equal(JsonValueKind.Null, report.GetProperty(name).ValueKind));
        Assert.Equal("Unknown", report.GetProperty("conditions").GetString());
    }

    [Fact]
    public async Task The_time_of_an_observation_is_that_of_the_place_and_is_given_in_utc()
    {
        await using var node = await WeatherNode.StartAsync(servers, upstreamIs: upstream => upstream.UtcOffset = TimeSpan.FromHours(5.5));
        Assert.Equal("2026-10-01T12:00:00Z", (await (await node.GetAsync("Berlin")).JsonAsync()).GetProperty("observedAt").GetString());
    }

    [Fact]
    public async Task The_upstream_is_asked_only_for_one_city_and_the_served_values()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        await node.GetAsync(" São  PAULO ");
        Assert.Equal(
            [
                "/v1/search?name=sao%20paulo&count=1&language=en&format=json",
                "/v1/forecast?latitude=-23.55&longitude=-46.64&current=temperature_2m,apparent_temperature,relative_humidity_2m,"
                + "weather_code,wind_speed_10m",
            ],
            node.Upstream.Calls);
    }

    [Fact]
    public void Every_weather_code_has_its_words_and_all_others_are_unknown()
    {
        int[] known = [0, 1, 2, 3, 45, 48, 51, 53, 55, 56, 57, 61, 63, 65, 66, 67, 71, 73, 75, 77, 80, 81, 82, 85, 86, 95, 96, 99];
        Assert.Equal(known.Length, known.Select(code => WeatherCodes.Text(code)).Except(["Unknown"]).Distinct().Count());
        Assert.All(Enumerable.Range(-1, 300).Except(known), code => Assert.Equal("Unknown", WeatherCodes.Text(code)));
        Assert.Equal("Unknown", WeatherCodes.Text(null));
    }

    private static void Sunny(FakeOpenMeteo upstream)
    {
        upstream.Values["temperature_2m"] = 20;
        upstream.Values["apparent_temperature"] = 18.5;
        upstream.Values["relative_humidity_2m"] = 58;
        upstream.Values["wind_speed_10m"] = 16.1;
        upstream.Values["weather_code"] = 2;
    }

    private static double Number(JsonElement report, string name) => report.GetProperty(name).GetDouble();
}
