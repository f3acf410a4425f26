using System.Net;
using System.Text.Json;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Hosting;

public sealed class OperationsTests(TestServers servers)
{
    [Theory]
    [InlineData("/health/live", """{"status":"healthy","checks":{}}""")]
    [InlineData("/health/ready", """{"status":"healthy","checks":{"postgres":"healthy","redis":"healthy"}}""")]
    public async Task Health_says_what_is_well(string path, string expected)
    {
        await using var api = await ApiNode.StartAsync(servers);
        var answer = await api.Anonymous.GetAsync(path);
        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        Assert.Equal(expected, await answer.Content.ReadAsStringAsync());
    }

    [Theory]
    [InlineData("/health/live", "default-src 'none'; frame-ancestors 'none'")]
    [InlineData("/users", "default-src 'none'; frame-ancestors 'none'")]
    [InlineData("/no-such-route", "default-src 'none'; frame-ancestors 'none'")]
    [InlineData("/", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")]
    [InlineData("/app.js", "default-src 'none'; frame-ancestors 'none'")]
    [InlineData("/swagger/index.html", "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")]
    public async Task Every_answer_tells_a_browser_what_not_to_do_with_it(string path, string policy)
    {
        await using var api = await ApiNode.StartAsync(servers);

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
        await using var api = await ApiNode.StartAsync(servers);
        Assert.Contains("swagger-ui", await api.Anonymous.GetStringAsync("/swagger/index.html"), StringComparison.Ordinal);
        var document = JsonSerializer.Deserialize<JsonElement>(await api.Anonymous.GetStringAsync("/swagger/v1/swagger.json"));

        var operations = document.GetProperty("paths").EnumerateObject()
            .SelectMany(path => path.Value.EnumerateObject().Select(operation => (Name: $"{operation.Name.ToUpperInvariant()} {path.Name}", operation.Value)))
            .ToDictionary(operation => operation.Name, operation => operation.Value);

        var expected = new Dictionary<string, string>
        {
            ["POST /users"] = "201 400 409 429 503",
            ["GET /users"] = "200 304 400 401 403 429 503",
            ["GET /users/{id}"] = "200 304 400 401 403 404 429 503",
            ["PUT /users/{id}"] = "200 202 400 401 403 404 409 412 429 503",
            ["DELETE /users/{id}"] = "204 400 401 403 404 429 503",
            ["PUT /users/{id}/password"] = "204 400 401 403 429 503",
            ["GET /sessions"] = "200 401 403 429 503",
            ["DELETE /sessions"] = "204 401 403 429 503",
            ["DELETE /sessions/{id}"] = "204 400 401 403 404 429 503",
            ["POST /sessions"] = "201 400 401 429 503",
            ["GET /sessions/current"] = "200 401 403 429 503",
            ["DELETE /sessions/current"] = "204 401 403 429 503",
            ["GET /weather/{city}"] = "200 304 400 404 429 503",
            ["GET /cache/entries"] = "200 400 401 403 404 429 503",
            ["DELETE /cache/entries"] = "204 400 401 403 404 429 503",
            ["DELETE /cache/namespaces/{name}"] = "204 401 403 404 429 503",
            ["GET /cache/stats"] = "200 401 403 429 503",
            ["POST /cache/warm"] = "202 400 401 403 409 429 503",
            ["GET /cache/warm/{id}"] = "200 400 401 403 404 429 503",
            ["GET /cache/dead-letters"] = "200 400 401 403 429 503",
            ["POST /cache/dead-letters/{id}/retry"] = "202 400 401 403 404 409 429 503",
            ["DELETE /cache/dead-letters/{id}"] = "204 400 401 403 404 429 503",
            ["GET /limits"] = "200 429 503",
            ["GET /limits/{policy}"] = "200 404 429 503",
        };
        Assert.Equal(expected.Keys.Order(), operations.Keys.Order());
        foreach (var (name, operation) in operations)
        {
            Assert.NotEmpty(operation.GetProperty("summary").GetString()!);
            Assert.Equal(expected[name], string.Join(' ', operation.GetProperty("responses").EnumerateObject().Select(response => response.Name).Order()));
            var open = name is "POST /users" or "POST /sessions" || name.Contains("/limits", StringComparison.Ordinal) || name.Contains("/weather", StringComparison.Ordinal);
            Assert.Equal(!open, operation.TryGetProperty("security", out _));
        }

        foreach (var schema in new[] { "CreateUser", "UpdateUser", "User", "CreateSession", "NewSession", "Session", "ChangePassword", "LimitPolicy", "LimitState", "WeatherReport", "StoredEntry", "TierEntry", "CacheStats", "CacheCounts", "TierCounts", "OperationLatency", "Latency", "RedisStats", "WriteBehindCounts", "LimitCounts", "WarmCache", "WarmingStatus", "DeadWrite" })
        {
            var properties = document.GetProperty("components").GetProperty("schemas").GetProperty(schema).GetProperty("properties");
            Assert.All(properties.EnumerateObject(), property => Assert.True(
                property.Value.TryGetProperty("description", out _) || property.Value.TryGetProperty("$ref", out _), $"{schema}.{property.Name}"));
            Assert.Contains(properties.EnumerateObject(), property => property.Value.TryGetProperty("examples", out _) || property.Value.TryGetProperty("example", out _));
        }
    }
}
