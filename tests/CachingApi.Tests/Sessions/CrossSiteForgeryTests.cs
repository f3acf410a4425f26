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
                var carried = await SendAsync(request => request.Headers.Authorization = bearer.DefaultRequestHeaders.Authorization);
                var anonymous = await SendAsync(_ => { });

                var what = $"{method}, {site}, {origin}";
                var refused = !own && method is not ("GET" or "HEAD");
                Assert.True(refused == IsRefusal(await ridden.Content.ReadAsStringAsync()), what);
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

    private static bool IsRefusal(string body) => body.Contains("must come from this site", StringComparison.Ordinal);
}
