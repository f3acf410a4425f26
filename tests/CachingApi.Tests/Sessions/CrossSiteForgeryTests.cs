using System.Net;
using System.Net.Http.Json;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;

namespace CachingApi.Tests.Sessions;

/// <summary>Every method with every pair of headers that a browser may send.</summary>
public sealed class CrossSiteForgeryTests(TestServers servers)
{
    private static readonly string[] Methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

    private static readonly (string? Site, string? Origin, bool Own)[] Senders =
    [
        ("same-origin", "{self}", true),
        ("same-origin", null, true),
        ("none", null, true),
        (null, "{self}", true),
        (null, null, true), // no browser
        ("same-site", "https://other.example.org", false),
        ("cross-site", "https://evil.example", false),
        ("cross-site", null, false),
        ("cross-site", "{self}", false),
        ("Same-Origin ", null, false), // no browser sends this spelling
        (null, "https://evil.example", false),
        (null, "{self}.evil.example", false),
        (null, "null", false),
    ];

    [Fact]
    public async Task A_change_that_rides_on_the_cookie_must_come_from_this_site()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var login = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password });
        var cookie = login.Header("Set-Cookie").Split(';')[0];
        var token = cookie.Split('=')[1];
        using var bearer = await api.LogInAsync(user.Email);
        using var client = api.CreateBareClient();
        var self = client.BaseAddress!.GetLeftPart(UriPartial.Authority);

        foreach (var method in Methods)
        {
            foreach (var (site, origin, own) in Senders)
            {
                async Task<HttpResponseMessage> SendAsync(Action<HttpRequestMessage> authorize)
                {
                    var request = new HttpRequestMessage(new(method), "/users/no-id");
                    request.Headers.TryAddWithoutValidation("Sec-Fetch-Site", site);
                    request.Headers.TryAddWithoutValidation("Origin", origin?.Replace("{self}", self, StringComparison.Ordinal));
                    authorize(request);
                    return await client.SendAsync(request);
                }

                var ridden = await SendAsync(request => request.Headers.Add("Cookie", cookie));
                string[] alike = [$"a=b; {cookie}", $"{cookie}; {cookie}", $"__Host-Session={token}"];
                string?[] authorizations = ["Basic YWRtaW46YWRtaW4=", "", "Bearer", "Bearer x", $"Bearer {token}x"];
                var disguised = new List<HttpResponseMessage>();
                foreach (var other in alike)
                {
                    disguised.Add(await SendAsync(request => request.Headers.Add("Cookie", other)));
                }

                foreach (var authorization in authorizations)
                {
                    disguised.Add(await SendAsync(request =>
                    {
                        request.Headers.Add("Cookie", cookie);
                        request.Headers.TryAddWithoutValidation("Authorization", authorization);
                    }));
                }

                var carried = await SendAsync(request => request.Headers.Authorization = bearer.DefaultRequestHeaders.Authorization);
                var anonymous = await SendAsync(_ => { });

                var what = $"{method}, {site}, {origin}";
                var refused = !own && method is not ("GET" or "HEAD");
                Assert.True(refused == IsRefusal(await ridden.Content.ReadAsStringAsync()), what);
                foreach (var answer in disguised)
                {
                    Assert.True(refused == IsRefusal(await answer.Content.ReadAsStringAsync()), what);
                }

                Assert.False(IsRefusal(await carried.Content.ReadAsStringAsync()), what);
                Assert.False(IsRefusal(await anonymous.Content.ReadAsStringAsync()), what);
                if (refused)
                {
                    await UserContractTests.AssertProblemAsync(ridden, HttpStatusCode.Forbidden);
                }
            }
        }

        Assert.Equal(HttpStatusCode.OK, (await bearer.GetAsync("/sessions/current")).StatusCode);
    }

    [Theory]
    [InlineData("/sessions", 401)]
    [InlineData("/users", 400)]
    public async Task Another_site_cannot_log_a_visitor_in_or_register_and_spends_no_permits(string route, int status)
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["RateLimits:Enabled"] = "true" });

        async Task<HttpResponseMessage> SendAsync(string? site, string? authorization = null)
        {
            using var request = new HttpRequestMessage(HttpMethod.Post, route);
            request.Content = JsonContent.Create(new { email = "a@example.org", password = "x" });
            request.Headers.TryAddWithoutValidation("Sec-Fetch-Site", site);
            request.Headers.TryAddWithoutValidation("Authorization", authorization);
            return await api.Anonymous.SendAsync(request);
        }

        await UserContractTests.AssertProblemAsync(await SendAsync("cross-site"), HttpStatusCode.Forbidden);
        await UserContractTests.AssertProblemAsync(await SendAsync("same-site", $"Bearer {new string('A', 64)}"), HttpStatusCode.Forbidden);
        Assert.DoesNotContain(await api.KeysAsync(), key => key.StartsWith("limits:", StringComparison.Ordinal));
        Assert.Equal(status, (int)(await SendAsync("same-origin")).StatusCode);
        Assert.Equal(status, (int)(await SendAsync(null)).StatusCode);
    }

    [Theory]
    [InlineData("http", "rebound.example", "*", true)]
    [InlineData("http", "rebound.example:8080", "*", true)]
    [InlineData("https", "api.example", "*", false)]
    [InlineData("http", "api.example", "api.example;127.0.0.1", false)]
    [InlineData("http", "localhost", "*", false)]
    [InlineData("http", "app.localhost", "*", false)]
    [InlineData("http", "api", "*", true)]
    [InlineData("http", "rebound.example", "*;api.example", true)]
    [InlineData("http", "192.0.2.1:8080", "*", false)]
    [InlineData("http", "[2001:db8::1]", "*", false)]
    public async Task A_page_whose_name_was_pointed_at_this_service_cannot_log_in(string scheme, string host, string allowed, bool refused)
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["AllowedHosts"] = allowed, ["Network:KnownProxies:0"] = "127.0.0.1" });
        var user = await api.CreateUserAsync();
        using var request = new HttpRequestMessage(HttpMethod.Post, "/sessions");
        request.Content = JsonContent.Create(new { email = user.Email, password = ApiNode.Password });
        request.Headers.Host = host;
        request.Headers.Add("X-Forwarded-For", "203.0.113.1");
        request.Headers.Add("X-Forwarded-Proto", scheme);
        request.Headers.Add("Origin", $"{scheme}://{host}");

        var answer = await api.Anonymous.SendAsync(request);

        Assert.Equal(refused ? HttpStatusCode.Forbidden : HttpStatusCode.Created, answer.StatusCode);
    }

    [Theory]
    [InlineData("cross-site", "no-cors", "image", null, null, false)]
    [InlineData("same-site", "no-cors", "image", null, null, false)]
    [InlineData("cross-site", "navigate", "iframe", "?1", null, false)]
    [InlineData("cross-site", "navigate", "document", null, null, false)]
    [InlineData("cross-site", "navigate", "document", "?1", "prefetch", false)]
    [InlineData("cross-site", "navigate", "document", "?1", null, true)]
    [InlineData("same-origin", "cors", "empty", null, null, true)]
    [InlineData(null, null, null, null, null, true)]
    public async Task An_image_on_another_site_spends_no_permits_of_the_weather_and_a_link_works(
        string? site, string? mode, string? destination, string? user, string? purpose, bool answered)
    {
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["RateLimits:Enabled"] = "true",
            ["Weather:Budget:PerMinute"] = "1",
            ["Weather:GeocodingUrl"] = "http://127.0.0.1:1",
        });
        using var request = new HttpRequestMessage(HttpMethod.Get, "/weather/Berlin");
        request.Headers.TryAddWithoutValidation("Sec-Fetch-Site", site);
        request.Headers.TryAddWithoutValidation("Sec-Fetch-Mode", mode);
        request.Headers.TryAddWithoutValidation("Sec-Fetch-Dest", destination);
        request.Headers.TryAddWithoutValidation("Sec-Fetch-User", user);
        request.Headers.TryAddWithoutValidation("Sec-Purpose", purpose);

        await UserContractTests.AssertProblemAsync(
            await api.Anonymous.SendAsync(request), answered ? HttpStatusCode.ServiceUnavailable : HttpStatusCode.Forbidden);

        Assert.Equal(answered, (await api.KeysAsync()).Any(key => key.StartsWith("limits:", StringComparison.Ordinal)));
    }

    [Theory]
    [InlineData("no-cors", "image", null, false)]
    [InlineData("navigate", "document", null, false)]
    [InlineData("navigate", "document", "?1", true)]
    public async Task An_image_on_another_site_spends_no_permits_of_the_list_of_limits_and_a_link_works(
        string mode, string destination, string? user, bool answered)
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["RateLimits:Enabled"] = "true" });
        using var request = new HttpRequestMessage(HttpMethod.Get, "/limits");
        request.Headers.Add("Sec-Fetch-Site", "cross-site");
        request.Headers.Add("Sec-Fetch-Mode", mode);
        request.Headers.Add("Sec-Fetch-Dest", destination);
        request.Headers.TryAddWithoutValidation("Sec-Fetch-User", user);
        using var client = api.CreateBareClient();

        var answer = await client.SendAsync(request);

        Assert.Equal(answered ? HttpStatusCode.OK : HttpStatusCode.Forbidden, answer.StatusCode);
        Assert.Equal(answered, answer.Headers.Contains("RateLimit"));
    }

    [Fact]
    public async Task A_session_cookie_counts_under_its_exact_name_and_once()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var login = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password });
        var token = login.Header("Set-Cookie").Split('=', ';')[1];
        using var client = api.CreateBareClient();

        async Task<HttpStatusCode> StatusAsync(params string[] cookies)
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, "/sessions/current");
            request.Headers.Add("Cookie", cookies);
            return (await client.SendAsync(request)).StatusCode;
        }

        Assert.Equal(HttpStatusCode.OK, await StatusAsync($"__Host-session={token}"));
        Assert.Equal(HttpStatusCode.OK, await StatusAsync($"a=b; __Host-session={token} ; __host-session=x"));
        Assert.Equal(HttpStatusCode.Unauthorized, await StatusAsync($"__host-session={token}"));
        Assert.Equal(HttpStatusCode.Unauthorized, await StatusAsync($"__HOST-SESSION={token}"));
        Assert.Equal(HttpStatusCode.Unauthorized, await StatusAsync($"__Host-session={token}; __Host-session={token}"));
        Assert.Equal(HttpStatusCode.Unauthorized, await StatusAsync($"__Host-session={token}; __Host-session=x"));
    }

    private static bool IsRefusal(string body) => body.Contains("for another site", StringComparison.Ordinal);
}
