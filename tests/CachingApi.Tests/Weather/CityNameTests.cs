using System.Net;
using System.Text;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Weather;

namespace CachingApi.Tests.Weather;

public sealed class CityNameTests(TestServers servers)
{
    [Fact]
    public async Task All_spellings_of_a_city_are_one_key()
    {
        await using var node = await WeatherNode.StartAsync(servers);

        foreach (var spelling in new[]
        {
            "Zürich",
            "zurich",
            " ZÜRICH ",
            "Zürich".Normalize(NormalizationForm.FormD),
            "Ｚürich",
            "\u00A0zürich\u3000",
        })
        {
            Assert.Equal("Zurich", (await (await node.GetAsync(spelling)).JsonAsync()).GetProperty("city").GetString());
        }

        Assert.Equal((1, 1), (node.Upstream.CallsOf(FakeOpenMeteo.Search), node.Upstream.CallsOf(FakeOpenMeteo.Forecast)));
        var keys = await node.Api.KeysAsync();
        Assert.Single(
            keys, key => key.StartsWith("geocoding:g", StringComparison.Ordinal) && key.EndsWith(":zurich", StringComparison.Ordinal));
        Assert.Single(
            keys, key => key.StartsWith("weather:g", StringComparison.Ordinal) && key.EndsWith(":47.37,8.55", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Other_names_of_a_city_share_its_observation()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        await node.GetAsync("Munich");

        var status = CacheStatus.Of(await node.GetAsync("München"));

        Assert.Equal((2, 1), (node.Upstream.CallsOf(FakeOpenMeteo.Search), node.Upstream.CallsOf(FakeOpenMeteo.Forecast)));
        Assert.Equal(("uri-miss", true), (status.Forwarded, status.Stored));
        Assert.True(CacheStatus.Of(await node.GetAsync("münchen")).Hit);
    }

    [Theory]
    [InlineData("Zürich", "zurich")]
    [InlineData("New   York", "new york")]
    [InlineData("İstanbul", "istanbul")]
    [InlineData("L’Aquila", "l'aquila")]
    [InlineData("Paris, France", "paris, france")]
    [InlineData("Frankfurt (Oder)", "frankfurt (oder)")]
    [InlineData("東京", "東京")]
    [InlineData("서울", "서울")]
    [InlineData("ながさき", "ながさき")]
    [InlineData("दिल्ली", "दिल्ली")]
    [InlineData("กรุงเทพ", "กรุงเทพ")]
    [InlineData("Йошкар-Ола", "йошкар-ола")]
    [InlineData("6 October", "6 october")]
    [InlineData("Å", "a")]
    public void A_name_has_one_form(string given, string form)
    {
        Assert.Equal(form, CityName.Parse(given)!.Value.Text);
        Assert.Equal(form, CityName.Parse(given.Normalize(NormalizationForm.FormD))!.Value.Text);
        Assert.Equal(form, CityName.Parse(form)!.Value.Text);
    }

    [Theory]
    [InlineData("")]
    [InlineData("   ")]
    [InlineData("..")]
    [InlineData("-")]
    [InlineData("a/b")]
    [InlineData("a\\b")]
    [InlineData("..%2fx")]
    [InlineData("a\0b")]
    [InlineData("a\nb")]
    [InlineData("a:b")]
    [InlineData("{a}")]
    [InlineData("a*")]
    [InlineData("☀️")]
    [InlineData("Berlin🌧")]
    [InlineData("\u202Enilreb")]
    [InlineData("ber\u200Flin")]
    [InlineData("ber\u200Blin")]
    [InlineData("\uD800")]
    public void An_invalid_name_is_rejected(string given) => Assert.Null(CityName.Parse(given));

    [Fact]
    public void A_name_has_100_characters_at_most_however_they_are_composed()
    {
        var longest = string.Concat(Enumerable.Repeat("é", 100));
        Assert.NotNull(CityName.Parse(longest));
        Assert.NotNull(CityName.Parse(longest.Normalize(NormalizationForm.FormD)));
        Assert.Null(CityName.Parse(longest + "é"));
        Assert.Null(CityName.Parse(string.Concat(Enumerable.Repeat("ﷺ", 10))));
    }

    [Theory]
    [InlineData("/weather/", 404)]
    [InlineData("/weather/%20", 400)]
    [InlineData("/weather/..%2f..%2fhealth", 400)]
    [InlineData("/weather/..%5c..%5chealth", 400)]
    [InlineData("/weather/%252e%252e%252fhealth", 400)]
    [InlineData("/weather/a/b", 404)]
    [InlineData("/weather/a%2fb", 400)]
    [InlineData("/weather/%00", 400)]
    [InlineData("/weather/ber%0d%0alin", 400)]
    [InlineData("/weather/%ff%fe", 400)]
    [InlineData("/weather/%ed%a0%80", 400)]
    [InlineData("/weather/%e2%98%80", 400)]
    [InlineData("/weather/%e2%80%aeberlin", 400)]
    public async Task Path_tricks_are_refused_without_an_upstream_call(string path, int status)
    {
        await using var node = await WeatherNode.StartAsync(servers);

        // The path is sent unchanged; a client library would normalise it.
        var (answered, headers) = await RawHttp.GetAsync(node.Api.Anonymous.BaseAddress!, path);

        Assert.Equal(status, answered);
        Assert.True(
            path.Contains("%00", StringComparison.Ordinal) || headers.Contains("application/problem+json", StringComparison.Ordinal),
            headers);
        Assert.Empty(node.Upstream.Calls);
    }

    [Fact]
    public async Task A_name_that_is_too_long_is_refused_by_name()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        var answer = await node.GetAsync(new string('a', 101));
        Assert.Equal(HttpStatusCode.BadRequest, answer.StatusCode);
        Assert.True((await answer.JsonAsync()).GetProperty("errors").TryGetProperty("city", out _));
        Assert.Equal(HttpStatusCode.NotFound, (await node.GetAsync(new string('a', 100))).StatusCode);
    }
}
