using System.Net;
using System.Text.Json;
using CachingApi.Hosting;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;
using Npgsql;

namespace CachingApi.Tests.Hosting;

public sealed class OperationsTests(TestServers servers)
{
    [Theory]
    [InlineData("/health/live", """{"status":"healthy","checks":{}}""")]
    [InlineData("/health/ready", """{"status":"healthy","checks":{"postgres":"healthy","redis":"healthy"}}""")]
    public async Task Health_reports_the_state_of_the_servers(string path, string expected)
    {
        await using var api = await ApiNode.StartAsync(servers);
        var answer = await api.Anonymous.GetAsync(path);
        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        Assert.Equal(expected, await answer.Content.ReadAsStringAsync());
    }

    [Theory]
    [InlineData("/health/live")]
    [InlineData("/health/ready")]
    [InlineData("/metrics")]
    public async Task Operations_are_only_read(string path)
    {
        var api = await servers.SharedApiAsync();

        await UserContractTests.AssertProblemAsync(await api.Anonymous.DeleteAsync(path), HttpStatusCode.MethodNotAllowed);
    }

    [Theory]
    [InlineData("/health/live", "default-src 'none'; frame-ancestors 'none'")]
    [InlineData("/users", "default-src 'none'; frame-ancestors 'none'")]
    [InlineData("/no-such-route", "default-src 'none'; frame-ancestors 'none'")]
    [InlineData(
        "/",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        + "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")]
    [InlineData("/app.js", "default-src 'none'; frame-ancestors 'none'")]
    [InlineData(
        "/swagger/index.html",
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        + "frame-ancestors 'none'")]
    public async Task Every_answer_restricts_what_a_browser_does_with_it(string path, string policy)
    {
        var api = await servers.SharedApiAsync();

        var answer = await api.Anonymous.GetAsync(path);

        Assert.Equal(policy, answer.Header("Content-Security-Policy"));
        Assert.Equal("nosniff", answer.Header("X-Content-Type-Options"));
        Assert.Equal("no-referrer", answer.Header("Referrer-Policy"));
        Assert.Equal("same-origin", answer.Header("Cross-Origin-Resource-Policy"));
        Assert.Empty(answer.Header("Server"));
    }

    [Fact]
    public async Task Swagger_documents_every_route_with_its_answers_and_who_it_is_for()
    {
        var api = await servers.SharedApiAsync();
        Assert.Contains("swagger-ui", await api.Anonymous.GetStringAsync("/swagger/index.html"), StringComparison.Ordinal);
        var document = JsonSerializer.Deserialize<JsonElement>(await api.Anonymous.GetStringAsync("/swagger/v1/swagger.json"));

        var operations = document.GetProperty("paths").EnumerateObject()
            .SelectMany(path => path.Value.EnumerateObject().Select(
                operation => (Name: $"{operation.Name.ToUpperInvariant()} {path.Name}", operation.Value)))
            .ToDictionary(operation => operation.Name, operation => operation.Value);

        var expected = new Dictionary<string, string>
        {
            ["POST /users"] = "201 400 403 409 413 415 429 503",
            ["GET /users"] = "200 304 400 401 403 429 503",
            ["GET /users/{id}"] = "200 304 400 401 403 404 429 503",
            ["PUT /users/{id}"] = "200 202 400 401 403 404 409 412 413 415 429 503",
            ["DELETE /users/{id}"] = "204 400 401 403 404 413 415 429 503",
            ["PUT /users/{id}/password"] = "204 400 401 403 413 415 429 503",
            ["GET /sessions"] = "200 401 403 429 503",
            ["DELETE /sessions"] = "204 401 403 429 503",
            ["DELETE /sessions/{id}"] = "204 400 401 403 404 429 503",
            ["POST /sessions"] = "201 400 401 403 413 415 429 503",
            ["GET /sessions/current"] = "200 401 403 429 503",
            ["POST /sessions/current/reauthentication"] = "204 400 401 403 413 415 429 503",
            ["DELETE /sessions/current"] = "204 401 403 429 503",
            ["GET /weather/{city}"] = "200 304 400 403 404 429 503",
            ["GET /cache/entries"] = "200 400 401 403 404 429 503",
            ["DELETE /cache/entries"] = "204 400 401 403 404 429 503",
            ["DELETE /cache/namespaces/{name}"] = "204 401 403 404 429 503",
            ["GET /cache/stats"] = "200 401 403 429 503",
            ["POST /cache/warm"] = "202 400 401 403 409 413 415 429 503",
            ["GET /cache/warm/{id}"] = "200 400 401 403 404 429 503",
            ["GET /cache/dead-letters"] = "200 400 401 403 429 503",
            ["POST /cache/dead-letters/{id}/retry"] = "202 400 401 403 404 409 429 503",
            ["DELETE /cache/dead-letters/{id}"] = "204 400 401 403 404 429 503",
            ["GET /limits"] = "200 403 429 503",
            ["GET /limits/{policy}"] = "200 403 404 429 503",
            ["GET /cache/stats/processes"] = "200 401 403 429 503",
            ["GET /cache/stats/history"] = "200 401 403 429 503",
            ["GET /lab"] = "200 401 403 429 503",
            ["PUT /lab/load"] = "200 400 401 403 413 415 429 503",
            ["DELETE /lab/load"] = "204 401 403 429 503",
            ["POST /lab/stampede"] = "200 400 401 403 413 415 429 503",
            ["POST /lab/update"] = "200 400 401 403 409 413 415 429 503",
            ["POST /lab/faults"] = "202 400 401 403 409 413 415 429 503",
        };
        Assert.Equal(expected.Keys.Order(), operations.Keys.Order());
        foreach (var (name, operation) in operations)
        {
            Assert.NotEmpty(operation.GetProperty("summary").GetString()!);
            Assert.Equal(
                expected[name],
                string.Join(' ', operation.GetProperty("responses").EnumerateObject().Select(response => response.Name).Order()));
            var open = name is "POST /users" or "POST /sessions"
                || name.Contains("/limits", StringComparison.Ordinal)
                || name.Contains("/weather", StringComparison.Ordinal);
            Assert.Equal(open, operation.GetProperty("security").GetArrayLength() == 0);
        }

        foreach (var schema in new[]
        {
            "CreateUser", "UpdateUser", "User", "CreateSession", "NewSession", "Session", "ChangePassword", "LimitPolicy",
            "LimitState", "WeatherReport", "StoredEntry", "TierEntry", "CacheStats", "CacheCounts", "TierCounts",
            "OperationLatency", "Latency", "RedisStats", "WriteBehindCounts", "LimitCounts", "WarmCache", "WarmingStatus",
            "WarmUpCounts", "DegradedPart", "DeadWrite",
        })
        {
            var properties = document.GetProperty("components").GetProperty("schemas").GetProperty(schema).GetProperty("properties");
            Assert.All(properties.EnumerateObject(), property => Assert.True(
                new[] { "description", "$ref", "oneOf" }.Any(name => property.Value.TryGetProperty(name, out _)),
                $"{schema}.{property.Name}"));
            Assert.Contains(
                properties.EnumerateObject(),
                property => property.Value.TryGetProperty("examples", out _) || property.Value.TryGetProperty("example", out _));
        }
    }

    [Fact]
    public async Task The_document_may_be_cached_and_is_asked_for_by_its_etag()
    {
        var api = await servers.SharedApiAsync();

        var first = await api.Anonymous.GetAsync("/swagger/v1/swagger.json");
        using var again = new HttpRequestMessage(HttpMethod.Get, "/swagger/v1/swagger.json");
        again.Headers.IfNoneMatch.Add(first.ETag());

        Assert.Equal("public, max-age=300", first.Header("Cache-Control"));
        Assert.Equal(HttpStatusCode.NotModified, (await api.Anonymous.SendAsync(again)).StatusCode);
    }

    [Fact]
    public async Task The_document_is_generated_once()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var document = api.Services.GetRequiredService<OpenApiDocument>();

        Assert.Same(await document.JsonAsync(), await document.JsonAsync());
    }

    [Theory]
    [InlineData("/swagger/index.html")]
    [InlineData("/swagger/v1/swagger.json")]
    public async Task Swagger_can_be_turned_off(string path)
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Swagger:Enabled"] = "false" });
        await UserContractTests.AssertProblemAsync(await api.Anonymous.GetAsync(path), HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task Readiness_is_computed_once_a_second_at_most()
    {
        await using var postgres = await PostgresServer.StartAsync();
        await using var proxy = new FaultProxy(postgres.Port);
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(56));
        var connection = new NpgsqlConnectionStringBuilder(postgres.ConnectionString) { Port = proxy.Port }.ConnectionString;
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:Postgres"] = connection }, time: time);
        async Task<string?> ReadyAsync() =>
            (await (await api.Anonymous.GetAsync("/health/ready")).JsonAsync()).GetProperty("status").GetString();

        Assert.Equal("healthy", await ReadyAsync());
        proxy.Cut();
        time.Advance(TimeSpan.FromMilliseconds(900));
        Assert.Equal("healthy", await ReadyAsync());
        time.Advance(TimeSpan.FromMilliseconds(100));
        Assert.Equal("degraded", await ReadyAsync());
    }

    [Fact]
    public async Task A_port_for_operations_has_nothing_else_and_the_service_has_them_no_more()
    {
        var port = Machine.FreePort();
        using var api = await ApiProcess.StartAsync(new()
        {
            ["ConnectionStrings:Postgres"] = await servers.CreateDatabaseAsync(),
            ["ConnectionStrings:Redis"] = servers.Redis,
            ["Redis:KeyPrefix"] = $"test-{Guid.NewGuid():N}",
            ["Database:ChangeCapture"] = "false",
            ["Operations:Port"] = $"{port}",
        });
        async Task<int> StatusAsync(string path, int? at = null)
        {
            var server = api.Client.BaseAddress!;
            using var request = new HttpRequestMessage(HttpMethod.Get,
                new UriBuilder(server) { Port = at ?? server.Port, Path = path }.Uri);
            request.Headers.Host = $"localhost:{port}"; // a client can send any value
            return (int)(await api.Client.SendAsync(request)).StatusCode;
        }

        foreach (var path in new[] { "/metrics", "/health/ready", "/Metrics/", "/health/ready/" })
        {
            Assert.Equal((404, 200), (await StatusAsync(path), await StatusAsync(path, port)));
        }

        foreach (var path in new[] { "/", "/limits", "/swagger/index.html", "/swagger/v1/swagger.json", "/app.js" })
        {
            Assert.Equal((200, 404), (await StatusAsync(path), await StatusAsync(path, port)));
        }

        Assert.Equal((200, 200), (await StatusAsync("/health/live"), await StatusAsync("/health/live", port)));
    }

    [Fact]
    public async Task Hsts_is_for_a_year_and_for_subdomains()
    {
        Assert.Equal("max-age=31536000; includeSubDomains", await HstsOverHttpsAsync("127.0.0.1"));
    }

    [Fact]
    public async Task A_scheme_that_no_known_proxy_has_sent_is_ignored()
    {
        Assert.Empty(await HstsOverHttpsAsync("192.0.2.1"));
    }

    [Fact]
    public async Task More_connections_than_allowed_are_closed()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Network:MaxConnections"] = "1" });
        Assert.Equal(HttpStatusCode.OK, (await api.Anonymous.GetAsync("/limits")).StatusCode); // its connection stays open

        var answer = await RawRequest.SendAsync(
            api.Anonymous.BaseAddress!, "GET /limits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"u8.ToArray());

        Assert.Null(answer);
    }

    [Fact]
    public async Task A_connection_without_a_request_is_closed()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Network:KeepAlive"] = "00:00:01" });

        // The answer is read until the server closes the connection.
        var answer = await RawRequest.SendAsync(api.Anonymous.BaseAddress!, "GET /limits HTTP/1.1\r\nHost: localhost\r\n\r\n"u8.ToArray());

        Assert.Equal(200, answer!.Status);
    }

    /// <summary>The header of an answer to a request that came over HTTPS to a proxy on this machine.</summary>
    private async Task<string> HstsOverHttpsAsync(string knownProxy)
    {
        var settings = new Dictionary<string, string> { ["environment"] = "Production", ["Network:KnownProxies:0"] = knownProxy };
        await using var api = await ApiNode.StartAsync(servers, settings);
        using var request = new HttpRequestMessage(HttpMethod.Get, "/limits");
        request.Headers.Add("X-Forwarded-Proto", "https");
        request.Headers.Host = "example.org";
        return (await api.Anonymous.SendAsync(request)).Header("Strict-Transport-Security");
    }
}
