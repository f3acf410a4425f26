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

    [Fact]
    public async Task Metrics_have_the_names_and_labels_that_dashboards_use()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        await client.GetAsync($"/users/{user.Id}");

        var metrics = await api.Anonymous.GetStringAsync("/metrics");

        foreach (var sample in new[]
        {
            """cache_requests_total{cache="users",result="miss",tier="redis"} 1""",
            """cache_requests_total{cache="users",result="hit",tier="redis"} 1""",
            """cache_requests_total{cache="users",result="hit",tier="source"} 1""",
            """cache_loads_total{cache="users",outcome="loaded"} 1""",
            """cache_load_duration_seconds_count{cache="users"} 1""",
            """cache_operation_duration_seconds_bucket{operation="get",tier="redis",le="0.0001"}""",
            """cache_circuit_open{} 0""",
            """sessions_total{event="created"} 1""",
            """http_server_request_duration_seconds_count{""",
        })
        {
            Assert.Contains(sample, metrics, StringComparison.Ordinal);
        }

        Assert.DoesNotContain(user.Id.ToString(), metrics, StringComparison.Ordinal);
        Assert.DoesNotContain(user.Email, metrics, StringComparison.Ordinal);
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
            ["POST /users"] = "201 400 409 503",
            ["GET /users"] = "200 304 400 401 403 503",
            ["GET /users/{id}"] = "200 304 400 401 403 404 503",
            ["PUT /users/{id}"] = "200 400 401 403 404 409 412 503",
            ["DELETE /users/{id}"] = "204 400 401 403 404 503",
            ["GET /weather/{city}"] = "200 304 400 404 503",
            ["POST /sessions"] = "201 400 401 503",
            ["GET /sessions/current"] = "200 401 403 503",
            ["DELETE /sessions/current"] = "204 401 403 503",
        };
        Assert.Equal(expected.Keys.Order(), operations.Keys.Order());
        foreach (var (name, operation) in operations)
        {
            Assert.NotEmpty(operation.GetProperty("summary").GetString()!);
            Assert.Equal(expected[name], string.Join(' ', operation.GetProperty("responses").EnumerateObject().Select(response => response.Name).Order()));
            Assert.Equal(!name.StartsWith("POST", StringComparison.Ordinal) && !name.Contains("/weather", StringComparison.Ordinal), operation.TryGetProperty("security", out _));
        }

        foreach (var schema in new[] { "CreateUser", "UpdateUser", "User", "CreateSession", "NewSession", "Session", "WeatherReport" })
        {
            var properties = document.GetProperty("components").GetProperty("schemas").GetProperty(schema).GetProperty("properties");
            Assert.All(properties.EnumerateObject(), property => Assert.True(
                property.Value.TryGetProperty("description", out _) || property.Value.TryGetProperty("$ref", out _), $"{schema}.{property.Name}"));
            Assert.Contains(properties.EnumerateObject(), property => property.Value.TryGetProperty("examples", out _) || property.Value.TryGetProperty("example", out _));
        }
    }
}
