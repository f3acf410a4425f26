using System.Net;
using System.Net.Http.Json;
using System.Text;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Sessions;

/// <summary>The rights of each kind of caller.</summary>
public sealed class AccessTests(TestServers servers, ClassApi shared) : IClassFixture<ClassApi>
{
    [Fact]
    public async Task Nothing_is_open_to_anonymous_callers_but_registration_login_limits_weather_and_operations()
    {
        var api = shared.Node;

        var open = api.Services.GetRequiredService<EndpointDataSource>().Endpoints.OfType<RouteEndpoint>()
            .Where(endpoint => endpoint.Metadata.GetMetadata<IAllowAnonymous>() is not null
                || endpoint.Metadata.GetMetadata<IAuthorizeData>() is null)
            .Select(endpoint => $"{endpoint.Metadata.GetMetadata<HttpMethodMetadata>()?.HttpMethods[0] ?? "GET"} "
                + endpoint.RoutePattern.RawText!.TrimEnd('/'));

        Assert.Equal(
            [
                "GET /development-login", "GET /health/live", "GET /health/ready", "GET /limits", "GET /limits/{policy}", "GET /metrics",
                "GET /weather/{city}", "POST /sessions", "POST /users",
            ],
            open.Order());
    }

    [Fact]
    public async Task No_route_is_open_to_an_expired_or_invalid_token()
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["Sessions:Idle"] = "00:00:01", ["Sessions:Absolute"] = "00:00:02" });
        var user = await api.CreateUserAsync();
        async Task<string> TokenAsync(string transport)
        {
            var login = await api.Anonymous.PostAsJsonAsync(
                "/sessions", new { email = user.Email, password = ApiNode.Password, transport });
            return transport == "cookie"
                ? login.Header("Set-Cookie").Split('=', ';')[1]
                : (await login.JsonAsync()).GetProperty("token").GetString()!;
        }

        var expired = await TokenAsync("bearer");
        await Eventually.TrueAsync(async () =>
        {
            await Task.Delay(1100); // longer than the idle limit
            return (await SendAsync(api, "GET", "/sessions/current", $"Bearer {expired}")).StatusCode is HttpStatusCode.Unauthorized;
        });
        var ended = await TokenAsync("bearer");
        await SendAsync(api, "DELETE", "/sessions/current", $"Bearer {ended}");
        var good = await TokenAsync("bearer");
        var tampered = (good[0] == 'A' ? 'B' : 'A') + good[1..];
        var elsewhere = SessionToken.New(user.Id).Text;

        var routes = api.Services.GetRequiredService<EndpointDataSource>().Endpoints.OfType<RouteEndpoint>()
            .Where(endpoint => endpoint.Metadata.GetMetadata<IAuthorizeData>() is not null
                && endpoint.Metadata.GetMetadata<IAllowAnonymous>() is null)
            .Select(endpoint => (
                Method: endpoint.Metadata.GetMetadata<HttpMethodMetadata>()!.HttpMethods[0],
                Path: $"/{endpoint.RoutePattern.RawText!.Trim('/').Replace("{id}", $"{user.Id}", StringComparison.Ordinal)}"))
            .ToArray();
        Assert.True(routes.Length >= 10);
        foreach (var (method, path) in routes)
        {
            foreach (var authorization in new[]
            {
                null, $"Bearer {expired}", $"Bearer {ended}", $"Bearer {tampered}", $"Bearer {elsewhere}",
                $"Bearer {await TokenAsync("cookie")}",
                $"Bearer {good}{good}", "Bearer", "Basic YWRtaW46YWRtaW4=", $"Bearer {new string('A', 10_000)}",
            })
            {
                var answer = await SendAsync(api, method, path, authorization);
                await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.Unauthorized);
                Assert.NotEmpty(answer.Header("WWW-Authenticate"));
            }

            // A bearer token is useless as a cookie, and a header that is much too long is not read.
            var request = new HttpRequestMessage(new(method), path);
            request.Headers.Add("Cookie", $"__Host-session={await TokenAsync("bearer")}");
            using var client = api.CreateBareClient();
            await UserContractTests.AssertProblemAsync(await client.SendAsync(request), HttpStatusCode.Unauthorized);
            Assert.Equal(
                HttpStatusCode.RequestHeaderFieldsTooLarge,
                (await SendAsync(api, method, path, $"Bearer {new string('A', 40_000)}")).StatusCode);
        }
    }

    [Fact]
    public async Task A_token_is_only_at_the_client()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:RedisState"] = redis.ConnectionString,
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["Serilog:MinimumLevel:Default"] = "Verbose",
            ["Serilog:MinimumLevel:Override:Microsoft"] = "Verbose",
        });
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);
        var bearer = client.DefaultRequestHeaders.Authorization!.Parameter!;
        var login = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password });
        var cookie = login.Header("Set-Cookie").Split('=', ';')[1];
        using var browser = api.CreateBareClient();
        browser.DefaultRequestHeaders.Add("Cookie", $"__Host-session={cookie}");
        foreach (var caller in new[] { client, browser })
        {
            await caller.GetAsync("/sessions");
            await caller.GetAsync($"/users/{user.Id}");
            await caller.PutAsJsonAsync($"/users/{user.Id}", new { email = "taken", displayName = "" });
            await caller.PutAsJsonAsync($"/users/{user.Id}/password",
                new { currentPassword = "not the password", newPassword = "dew on the moss" });
        }

        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await connection.GetServers()[0].ExecuteAsync("CONFIG", "SET", "rdbcompression", "no");
        await connection.GetServers()[0].ExecuteAsync("SAVE");
        var folder = (string[])(await connection.GetServers()[0].ExecuteAsync("CONFIG", "GET", "dir"))!;
        var file = (string[])(await connection.GetServers()[0].ExecuteAsync("CONFIG", "GET", "dbfilename"))!;
        var dump = Path.Combine(folder[1], file[1]);
        Assert.SkipUnless(File.Exists(dump), "Redis runs elsewhere.");
        var kept = new Dictionary<string, string>
        {
            ["log"] = string.Join('\n', api.Log),
            ["metrics"] = await api.Anonymous.GetStringAsync("/metrics"),
            ["dump"] = Encoding.Latin1.GetString(await File.ReadAllBytesAsync(dump)),
        };

        Assert.Matches("HTTP \"?GET\"? \"?/sessions\"? responded 200", kept["log"]);
        Assert.Contains(user.Id.ToString(), kept["dump"], StringComparison.Ordinal);
        foreach (var (place, text) in kept)
        {
            string[] secrets = [bearer, cookie, bearer[22..], cookie[22..], ApiNode.Password, "not the password", "dew on the moss"];
            foreach (var secret in secrets)
            {
                Assert.False(text.Contains(secret, StringComparison.Ordinal), $"{secret} is in the {place}");
            }
        }

        Assert.DoesNotContain(user.Email, kept["log"], StringComparison.Ordinal);
        Assert.DoesNotContain(user.Email, kept["metrics"], StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("GET", "/users/{self}", 401, 200, 403, 200)]
    [InlineData("PUT", "/users/{self}", 401, 200, 403, 200)]
    [InlineData("DELETE", "/users/{self}", 401, 204, 403, 204)]
    [InlineData("GET", "/users", 401, 403, 403, 200)]
    [InlineData("GET", "/users/not-an-id", 401, 403, 403, 400)]
    [InlineData("PUT", "/users/{self}/password", 401, 204, 403, 403)]
    [InlineData("GET", "/cache/dead-letters", 401, 403, 403, 200)]
    [InlineData("POST", "/cache/dead-letters/1-0/retry", 401, 403, 403, 404)]
    [InlineData("DELETE", "/cache/dead-letters/1-0", 401, 403, 403, 404)]
    [InlineData("GET", "/sessions", 401, 200, 200, 200)]
    [InlineData("DELETE", "/sessions", 401, 204, 204, 204)]
    [InlineData("DELETE", "/sessions/01980c6e-8f00-7a10-8c3e-2f3a1b4c5d6e", 401, 404, 404, 404)]
    [InlineData("GET", "/sessions/current", 401, 200, 200, 200)]
    [InlineData("DELETE", "/sessions/current", 401, 204, 204, 204)]
    [InlineData("POST", "/sessions/current/reauthentication", 401, 400, 400, 400)]
    [InlineData("GET", "/cache/stats", 401, 403, 403, 200)]
    [InlineData("GET", "/cache/entries?key=users:{self}", 401, 403, 403, 200)]
    [InlineData("DELETE", "/cache/entries?key=users:{self}", 401, 403, 403, 204)]
    [InlineData("DELETE", "/cache/namespaces/users", 401, 403, 403, 204)]
    [InlineData("POST", "/cache/warm", 401, 403, 403, 202)]
    [InlineData("GET", "/cache/warm/{self}", 401, 403, 403, 404)]
    public async Task Each_route_is_open_to_its_callers_only(string method, string path, int anonymous, int self, int other, int admin)
    {
        var api = shared.Node;

        foreach (var (caller, expected) in new[] { ("anonymous", anonymous), ("self", self), ("other", other), ("admin", admin) })
        {
            var user = await api.CreateUserAsync();
            using var client = caller switch
            {
                "anonymous" => api.CreateClient(),
                "self" => await api.LogInAsync(user.Email),
                "other" => await api.LogInAsync((await api.CreateUserAsync()).Email),
                _ => await api.AdminAsync(),
            };
            var request = new HttpRequestMessage(new(method), path.Replace("{self}", user.Id.ToString(), StringComparison.Ordinal));
            if (method == "POST")
            {
                request.Content = JsonContent.Create(new { cache = "users", top = 1 });
            }
            else if (method == "PUT")
            {
                request.Content = path.EndsWith("password", StringComparison.Ordinal)
                    ? JsonContent.Create(new { currentPassword = ApiNode.Password, newPassword = "dew on the moss" })
                    : JsonContent.Create(new { email = user.Email, displayName = "Countess" });
            }

            var answer = await client.SendAsync(request);

            if (expected >= 400)
            {
                await UserContractTests.AssertProblemAsync(answer, (HttpStatusCode)expected);
            }
            else
            {
                Assert.Equal(expected, (int)answer.StatusCode);
            }
        }
    }

    private static async Task<HttpResponseMessage> SendAsync(ApiNode api, string method, string path, string? authorization)
    {
        var request = new HttpRequestMessage(new(method), path);
        request.Headers.TryAddWithoutValidation("Authorization", authorization);
        return await api.Anonymous.SendAsync(request);
    }
}
