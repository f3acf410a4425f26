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
        ("Same-Origin ", null, false), // no browser writes it so
        (null, "https://evil.example", false),
        (null, "{self}.evil.example", false),
        (null, "null", false),
    ];

    [Fact]
    public async Task A_change_that_rides_on_the_cookie_must_come_from_this_site()
    {
        await using var api = await ApiNode.StartAsync(servers);
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

    [Fact]
    public async Task A_session_cookie_counts_under_its_exact_name_and_once()
    {
        await using var api = await ApiNode.StartAsync(servers);
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

    private static bool IsRefusal(string body) => body.Contains("must come from this site", StringComparison.Ordinal);
}
