using System.Globalization;
using System.Net;
using System.Net.Http.Json;
using System.Text;
using CachingApi.RateLimiting;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.RateLimiting;

/// <summary>The limits of the service's own routes.</summary>
public sealed class LimitedRoutesTests(TestServers servers)
{
    [Fact]
    public async Task Every_route_but_those_for_operations_is_limited()
    {
        await using var api = await ApiNode.StartAsync(servers);

        var limits = api.Services.GetRequiredService<EndpointDataSource>().Endpoints.OfType<RouteEndpoint>().ToDictionary(
            endpoint => $"{endpoint.Metadata.GetMetadata<HttpMethodMetadata>()?.HttpMethods[0] ?? "GET"} "
                + endpoint.RoutePattern.RawText!.TrimEnd('/'),
            endpoint => string.Join(' ', endpoint.Metadata.OfType<RateLimit>()
                .Concat(endpoint.Metadata.OfType<DeferredRateLimit>().Select(deferred => deferred.Limit))
                .Select(limit => limit.Policy ?? "named")));

        Assert.Equal("login login-network login-account", limits["POST /sessions"]);
        Assert.Equal("registration registration-network", limits["POST /users"]);
        Assert.Equal("default email-change registration registration-network password", limits["PUT /users/{id}"]);
        Assert.Equal("default password", limits["DELETE /users/{id}"]);
        Assert.Equal("session password", limits["PUT /users/{id}/password"]);
        Assert.Equal("session password", limits["POST /sessions/current/reauthentication"]);
        Assert.Equal("session", limits["DELETE /sessions"]);
        Assert.Equal("weather weather weather-miss weather-miss-network weather-refresh", limits["GET /weather/{city}"]);
        Assert.Equal("default", limits["GET /users/{id}"]);
        Assert.Equal("cache-stats", limits["GET /cache/stats"]);
        Assert.Equal("default", limits["POST /cache/warm"]);
        Assert.Equal("named", limits["GET /limits/{policy}"]);
        Assert.Equal(
            ["GET /development-login", "GET /health/live", "GET /health/ready", "GET /metrics"],
            limits.Where(route => route.Value is "").Select(route => route.Key).Order());
    }

    [Fact]
    public async Task The_policies_are_listed_and_those_to_try_can_be_spent()
    {
        await using var api = await StartAsync();

        var listed = (await (await api.Anonymous.GetAsync("/limits")).JsonAsync())
            .EnumerateArray()
            .ToDictionary(policy => policy.GetProperty("policy").GetString()!);
        Assert.Equal(
            [
                "cache-stats", "default", "demo-fixed-window", "demo-sliding-window", "demo-token-bucket", "email-change", "login",
                "login-account", "login-network", "password", "registration", "registration-network", "session", "weather", "weather-miss",
                "weather-miss-network", "weather-refresh",
            ],
            listed.Keys);
        Assert.Equal(
            """{"policy":"registration","algorithm":"fixed-window","limit":20,"windowSeconds":3600,"partition":"ip"}""",
            listed["registration"].GetRawText());

        foreach (var policy in listed.Keys.Where(name => name.StartsWith("demo", StringComparison.Ordinal)))
        {
            for (var remaining = 9; remaining >= 0; remaining--)
            {
                var answer = await api.Anonymous.GetAsync($"/limits/{policy}");
                Assert.Equal("no-store", answer.Header("Cache-Control"));
                var state = await answer.JsonAsync();
                Assert.Equal(
                    ["policy", "algorithm", "limit", "remaining", "resetSeconds"],
                    state.EnumerateObject().Select(property => property.Name));
                Assert.Equal(policy, $"demo-{state.GetProperty("algorithm").GetString()}");
                Assert.Equal(10, state.GetProperty("limit").GetInt32());
                Assert.Equal(remaining, answer.List("RateLimit").Single().Parameters["r"]);
                Assert.Equal(remaining, state.GetProperty("remaining").GetInt32());
                Assert.Equal(answer.List("RateLimit").Single().Parameters["t"], state.GetProperty("resetSeconds").GetInt32());
            }

            await UserContractTests.AssertProblemAsync(await api.Anonymous.GetAsync($"/limits/{policy}"), HttpStatusCode.TooManyRequests);
        }

        await UserContractTests.AssertProblemAsync(await api.Anonymous.GetAsync("/limits/nope"), HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task Without_limits_the_policies_are_still_shown_and_none_is_spent()
    {
        await using var api = await ApiNode.StartAsync(servers);
        for (var request = 0; request < 12; request++)
        {
            var answer = await api.Anonymous.GetAsync("/limits/demo-fixed-window");
            Assert.Equal(10, (await answer.JsonAsync()).GetProperty("remaining").GetInt32());
            Assert.Empty(answer.Header("RateLimit"));
        }
    }

    [Fact]
    public async Task A_flood_of_logins_is_stopped_before_a_password_is_looked_at()
    {
        await using var api = await StartAsync();
        Assert.Equal(Repeated(401, 10) + " 429 429", await LogInAsync(api, 12, number => $"nobody-{number}@example.org"));
        Assert.Equal(10, await api.MetricAsync("sessions_total", ("event", "refused")));
        Assert.Equal(1, await api.MetricAsync("rate_limit_decisions_total", ("policy", "login"), ("outcome", "denied")));
        Assert.Equal(1, await api.MetricAsync("rate_limit_decisions_total", ("policy", "login"), ("outcome", "denied_local")));
        Assert.Equal(10, await api.MetricAsync("rate_limit_decisions_total", ("policy", "login"), ("outcome", "allowed")));
        // A request that is denied by address does not spend the account's permits.
        Assert.Equal(10, await api.MetricAsync("rate_limit_decisions_total", ("policy", "login-account"), ("outcome", "allowed")));
    }

    [Fact]
    public async Task Guesses_at_one_account_from_one_address_are_stopped_in_any_spelling_and_keep_no_other_client_out()
    {
        await using var api = await StartAsync(("Network:KnownProxies:0", "127.0.0.1"), ("RateLimits:Policies:login:Limit", "1000"));
        string[] ways =
        [
            """{"email":"ada@example.org","password":"x"}""",
            """{"password":"x","email":"  ADA@example.org "}""",
            """{"\u0065mail":"\u0061da@example.org","password":"x"}""",
        ];
        Task<HttpResponseMessage> GuessAsync(int number, string from, Encoding? encoding = null) =>
            PostAsync(api, new StringContent(ways[number % 3], encoding ?? Encoding.UTF8, "application/json"), from);

        for (var number = 0; number < 10; number++)
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await GuessAsync(number, "203.0.113.1")).StatusCode);
        }

        var denied = await GuessAsync(10, "203.0.113.1");
        var problem = await UserContractTests.AssertProblemAsync(denied, HttpStatusCode.TooManyRequests);
        Assert.Equal("login-account", Assert.Single(problem.GetProperty("violated-policies").EnumerateArray()).GetString());
        Assert.Equal(["login", "login-network", "login-account"], denied.List("RateLimit-Policy").Select(policy => policy.Name));
        Assert.Equal(HttpStatusCode.UnsupportedMediaType, (await GuessAsync(11, "203.0.113.1", Encoding.Unicode)).StatusCode);
        Assert.Equal(
            HttpStatusCode.Unauthorized,
            (await PostAsync(api, JsonContent.Create(new { email = "grace@example.org", password = "x" }), "203.0.113.1")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await GuessAsync(12, "203.0.113.2")).StatusCode);
        // Not "ada", because an id in hexadecimal may contain that.
        Assert.DoesNotContain(
            await api.KeysAsync(),
            key => key.Contains("example", StringComparison.OrdinalIgnoreCase) || key.Contains('@', StringComparison.Ordinal));
        Assert.Contains(await api.KeysAsync(), key => key.StartsWith("limits:{account:", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("203.0.113.{0}", "203.0.114.1")]
    [InlineData("2001:db8:7:{0}::1", "2001:db8:8:1::1")]
    public async Task A_network_has_a_larger_budget_than_an_address(string network, string elsewhere)
    {
        await using var api = await StartAsync(
            ("Network:KnownProxies:0", "127.0.0.1"), ("RateLimits:Policies:login-network:Limit", "4"),
            ("RateLimits:Policies:registration-network:Limit", "4"));
        Task<HttpResponseMessage> LogInAsync(string from) =>
            PostAsync(api, JsonContent.Create(new { email = $"{Guid.NewGuid():N}@example.org", password = "x" }), from);
        Task<HttpResponseMessage> RegisterAsync(string from) => PostAsync(api, JsonContent.Create(new { email = "no" }), from, "/users");
        string From(int number) => string.Format(CultureInfo.InvariantCulture, network, number);

        for (var number = 1; number <= 4; number++)
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(From(number))).StatusCode);
            Assert.Equal(HttpStatusCode.BadRequest, (await RegisterAsync(From(number))).StatusCode);
        }

        foreach (var (denied, policy) in new[] { (await LogInAsync(From(5)), "login-network"),
            (await RegisterAsync(From(5)), "registration-network") })
        {
            var problem = await UserContractTests.AssertProblemAsync(denied, HttpStatusCode.TooManyRequests);
            Assert.Equal(policy, Assert.Single(problem.GetProperty("violated-policies").EnumerateArray()).GetString());
        }

        Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(elsewhere)).StatusCode);
        Assert.Equal(HttpStatusCode.BadRequest, (await RegisterAsync(elsewhere)).StatusCode);
    }

    [Theory]
    [InlineData("login")]
    [InlineData("registration")]
    public async Task To_ask_for_a_policy_spends_none_of_the_permits_of_its_routes_and_another_site_cannot_ask(string policy)
    {
        await using var api = await StartAsync(($"RateLimits:Policies:{policy}:Limit", "2"));
        Task<HttpResponseMessage> UseAsync() =>
            PostAsync(api, JsonContent.Create(new { email = "no" }), to: policy == "login" ? "/sessions" : "/users");

        // As an image on another site's page would request it.
        foreach (var (name, value) in new[] { ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-site"),
            ("Origin", "https://evil.example") })
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, $"/limits/{policy}");
            request.Headers.Add(name, value);
            await UserContractTests.AssertProblemAsync(await api.Anonymous.SendAsync(request), HttpStatusCode.Forbidden);
        }

        Assert.Equal(1, (await (await api.Anonymous.GetAsync($"/limits/{policy}")).JsonAsync()).GetProperty("remaining").GetInt32());
        Assert.Equal(0, (await (await api.Anonymous.GetAsync($"/limits/{policy}")).JsonAsync()).GetProperty("remaining").GetInt32());
        Assert.Equal(HttpStatusCode.TooManyRequests, (await api.Anonymous.GetAsync($"/limits/{policy}")).StatusCode);

        Assert.NotEqual(HttpStatusCode.TooManyRequests, (await UseAsync()).StatusCode);
        Assert.NotEqual(HttpStatusCode.TooManyRequests, (await UseAsync()).StatusCode);
        Assert.Equal(HttpStatusCode.TooManyRequests, (await UseAsync()).StatusCode);
    }

    [Fact]
    public async Task Another_site_may_try_the_demo_policies()
    {
        await using var api = await StartAsync();
        using var request = new HttpRequestMessage(HttpMethod.Get, "/limits/demo-fixed-window");
        request.Headers.Add("Sec-Fetch-Site", "cross-site");

        Assert.Equal(HttpStatusCode.OK, (await api.Anonymous.SendAsync(request)).StatusCode);
        Assert.Contains(await api.KeysAsync(), key => key.StartsWith("limits:{ip:127.0.0.1}:demo-fixed-window", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("{", "application/json", 400)]
    [InlineData("""{"email":7}""", "application/json", 400)]
    [InlineData("", "application/json", 400)]
    [InlineData("null", "application/json", 400)]
    [InlineData(null, "application/json", 413)]
    public async Task A_login_without_an_account_gets_a_validation_error_and_counts_by_address(
        string? body, string type, int status)
    {
        await using var api = await StartAsync();
        Task<HttpResponseMessage> SendAsync() =>
            PostAsync(api, new StringContent(body ?? $$"""{"email":"{{new string('x', 70_000)}}"}""", Encoding.UTF8, type));

        var answer = await SendAsync();
        await UserContractTests.AssertProblemAsync(answer, (HttpStatusCode)status);
        // An error also has the remaining permits.
        Assert.Equal([("login", 9L), ("login-network", 99L), ("login-account", 9L)],
            answer.List("RateLimit").Select(limit => (limit.Name, limit.Parameters["r"])));

        for (var request = 0; request < 9; request++)
        {
            Assert.Equal(status, (int)(await SendAsync()).StatusCode);
        }

        Assert.Equal(HttpStatusCode.TooManyRequests, (await SendAsync()).StatusCode);
    }

    [Fact]
    public async Task Registrations_are_limited_by_address_and_a_spoofed_one_changes_nothing()
    {
        await using var api = await StartAsync(("RateLimits:Policies:registration:Limit", "2"));
        Task<HttpResponseMessage> RegisterAsync(string from)
        {
            var request = new HttpRequestMessage(HttpMethod.Post, "/users")
            {
                Content = JsonContent.Create(
                    new { email = $"{Guid.NewGuid():N}@example.org", displayName = "Ada", password = ApiNode.Password }),
            };
            request.Headers.Add("X-Forwarded-For", from);
            request.Headers.Add("X-Real-IP", from);
            request.Headers.Add("Forwarded", $"for={from}");
            return api.Anonymous.SendAsync(request);
        }

        Assert.Equal(HttpStatusCode.Created, (await RegisterAsync("203.0.113.1")).StatusCode);
        Assert.Equal(HttpStatusCode.Created, (await RegisterAsync("203.0.113.2")).StatusCode);
        await UserContractTests.AssertProblemAsync(await RegisterAsync("203.0.113.3"), HttpStatusCode.TooManyRequests);
        Assert.Equal("limits:{ip:127.0.0.1}:registration:fixed-window:3600000",
            Assert.Single(await api.KeysAsync(), key => key.StartsWith("limits:{ip:", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task Behind_known_proxies_the_address_is_the_first_hop_that_is_not_a_known_proxy()
    {
        await using var api = await StartAsync(("Network:KnownProxies:0", "127.0.0.1"), ("Network:KnownProxies:1", "10.0.0.0/8"));
        var request = new HttpRequestMessage(HttpMethod.Get, "/limits/demo-fixed-window");
        request.Headers.Add("X-Forwarded-For", "198.51.100.1, 203.0.113.7, 10.1.2.3"); // the client has invented the first one
        await api.Anonymous.SendAsync(request);

        Assert.StartsWith(
            "limits:{ip:203.0.113.7}:",
            Assert.Single(await api.KeysAsync(), key => key.StartsWith("limits:", StringComparison.Ordinal)),
            StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_user_is_counted_in_all_sessions_a_session_by_itself_and_an_anonymous_client_by_address()
    {
        await using var api = await StartAsync(("RateLimits:Policies:demo-fixed-window:Partition", "session"));
        var user = await api.CreateUserAsync();
        using var first = await api.LogInAsync(user.Email);
        using var second = await api.LogInAsync(user.Email);
        async Task<long> LeftAsync(HttpClient client, string path) =>
            (await client.GetAsync(path)).List("RateLimit").Single().Parameters["r"];

        Assert.Equal(599, await LeftAsync(first, $"/users/{user.Id}"));
        Assert.Equal(598, await LeftAsync(second, $"/users/{user.Id}"));
        Assert.Equal(597, await LeftAsync(second, "/sessions/current"));
        Assert.Equal(599, await LeftAsync(api.Anonymous, $"/users/{user.Id}"));
        Assert.Equal(9, await LeftAsync(first, "/limits/demo-fixed-window"));
        Assert.Equal(9, await LeftAsync(second, "/limits/demo-fixed-window"));
        Assert.Equal(8, await LeftAsync(second, "/limits/demo-fixed-window"));

        // A token without a session does not select another partition than the address.
        using var forger = api.CreateClient();
        forger.DefaultRequestHeaders.Authorization = new("Bearer", new string('A', 64));
        Assert.Equal(598, await LeftAsync(forger, $"/users/{user.Id}"));
    }

    [Fact]
    public async Task A_client_that_is_denied_by_address_costs_no_session_look_up()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await using var api = await StartAsync(
            ("ConnectionStrings:Redis", servers.Redis),
            ("ConnectionStrings:RedisState", redis.ConnectionString),
            ("Sessions:MemoryTtl", "00:00:00"),
            ("RateLimits:Policies:registration:Limit", "1"));
        using var client = await api.AdminAsync();
        await client.PostAsJsonAsync("/users", new { });
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/sessions/current")).StatusCode);

        var before = await RateLimitTests.CallsAsync(connection);
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(before + 1, await RateLimitTests.CallsAsync(connection));

        // The first request costs a call for the limit, and the second costs none.
        for (var request = 0; request < 2; request++)
        {
            Assert.Equal(HttpStatusCode.TooManyRequests, (await client.PostAsJsonAsync("/users", new { })).StatusCode);
            Assert.Equal(before + 2, await RateLimitTests.CallsAsync(connection));
        }
    }

    [Fact]
    public async Task Operations_are_not_limited()
    {
        await using var api = await StartAsync(("RateLimits:Policies:default:Limit", "1"));
        foreach (var path in new[] { "/health/live", "/health/ready", "/metrics", "/swagger/v1/swagger.json", "/", "/app.js" })
        {
            for (var request = 0; request < 3; request++)
            {
                var answer = await api.Anonymous.GetAsync(path);
                Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
                Assert.Empty(answer.Header("RateLimit-Policy"));
            }
        }
    }

    [Fact]
    public async Task Decisions_without_redis_are_counted_as_such_and_logins_are_refused_meanwhile()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(
            ("ConnectionStrings:Redis", servers.Redis),
            ("ConnectionStrings:RedisState", redis.ConnectionString),
            ("Redis:StateDeadline", "00:00:00.300"));
        await redis.KillAsync();

        Assert.Equal(HttpStatusCode.OK, (await api.Anonymous.GetAsync("/limits/demo-token-bucket")).StatusCode);
        var login = await PostAsync(api, JsonContent.Create(new { email = "ada@example.org", password = "x" }));
        await UserContractTests.AssertProblemAsync(login, HttpStatusCode.ServiceUnavailable);
        Assert.NotEmpty(login.Header("Retry-After"));

        Assert.Equal(1, await api.MetricAsync("rate_limit_decisions_total", ("policy", "demo-token-bucket"), ("outcome", "fallback")));
        Assert.Equal(1, await api.MetricAsync("rate_limit_decisions_total", ("policy", "login"), ("outcome", "fallback")));
        Assert.Equal(0, await api.MetricAsync("sessions_total"));
    }

    private Task<ApiNode> StartAsync(params (string Name, string Value)[] settings)
    {
        var all = settings.ToDictionary(setting => setting.Name, setting => setting.Value);
        all["RateLimits:Enabled"] = "true";
        // The windows are long, so that none ends during the test.
        foreach (var policy in new[] { "default", "login", "login-network", "login-account", "registration-network", "demo-fixed-window",
            "demo-sliding-window", "demo-token-bucket" })
        {
            all[$"RateLimits:Policies:{policy}:Window"] = "1.00:00:00";
        }

        return ApiNode.StartAsync(servers, all);
    }

    private static string Repeated(int status, int times) => string.Join(' ', Enumerable.Repeat(status, times));

    private static Task<HttpResponseMessage> PostAsync(ApiNode api, HttpContent content, string? from = null, string to = "/sessions")
    {
        var request = new HttpRequestMessage(HttpMethod.Post, to) { Content = content };
        if (from is not null)
        {
            request.Headers.Add("X-Forwarded-For", from);
        }

        return api.Anonymous.SendAsync(request);
    }

    private static async Task<string> LogInAsync(ApiNode api, int times, Func<int, string> email)
    {
        var statuses = new List<int>();
        for (var number = 0; number < times; number++)
        {
            statuses.Add((int)(await PostAsync(api, JsonContent.Create(new { email = email(number), password = "x" }))).StatusCode);
        }

        return string.Join(' ', statuses);
    }
}
