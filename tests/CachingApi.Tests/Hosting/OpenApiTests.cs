using System.Text.Json;
using System.Text.RegularExpressions;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Hosting;

/// <summary>The OpenAPI document, for its readers and for clients that are generated from it.</summary>
public sealed partial class OpenApiTests(TestServers servers)
{
    [Fact]
    public async Task Each_operation_has_a_name_of_its_own_for_a_method_of_a_client()
    {
        var document = await DocumentAsync();

        Assert.Equal(
            [
                "acquirePermit", "causeFault", "changePassword", "clearCache", "createUser", "deleteUser", "dropDeadLetter", "endLoad",
                "endOtherSessions", "endSession", "evictCacheEntry", "getCacheEntry", "getCacheStats", "getCacheStatsHistory",
                "getCacheStatsOfAllProcesses", "getCurrentSession", "getLab", "getUser", "getWarmingJob", "getWeather", "listDeadLetters",
                "listRateLimits", "listSessions", "listUsers", "logIn", "logOut", "reauthenticate", "releaseStampede", "retryDeadLetter",
                "startLoad", "updateLabUser", "updateUser", "warmCache",
            ],
            Operations(document).Select(operation => operation.GetProperty("operationId").GetString()).Order(StringComparer.Ordinal));
    }

    [Theory]
    [InlineData("getUser", 200, "Age Cache-Control Cache-Status ETag RateLimit RateLimit-Policy")]
    [InlineData("getUser", 304, "Age Cache-Control Cache-Status ETag RateLimit RateLimit-Policy")]
    [InlineData("getUser", 401, "RateLimit RateLimit-Policy WWW-Authenticate")]
    [InlineData("getUser", 404, "Age Cache-Control Cache-Status RateLimit RateLimit-Policy")]
    [InlineData("getUser", 429, "RateLimit RateLimit-Policy Retry-After")]
    [InlineData("createUser", 201, "ETag Location RateLimit RateLimit-Policy")]
    [InlineData("updateUser", 200, "ETag RateLimit RateLimit-Policy")]
    [InlineData("updateUser", 202, "ETag Location RateLimit RateLimit-Policy")]
    [InlineData("logIn", 201, "Location RateLimit RateLimit-Policy Set-Cookie")]
    [InlineData("warmCache", 202, "Location RateLimit RateLimit-Policy")]
    [InlineData("getWeather", 200, "Age Cache-Control Cache-Status ETag")] // a public answer shows no client's permits
    [InlineData("getWeather", 503, "Cache-Status RateLimit RateLimit-Policy Retry-After")]
    public async Task An_answer_declares_its_headers(string operation, int status, string headers)
    {
        var response = Operation(await DocumentAsync(), operation).GetProperty("responses").GetProperty($"{status}");

        Assert.Equal(headers, string.Join(' ', response.GetProperty("headers").EnumerateObject().Select(header => header.Name)));
    }

    [Theory]
    [InlineData("getUser", "If-None-Match", "header", "")]
    [InlineData("listUsers", "If-None-Match", "header", "")]
    [InlineData("getWeather", "If-None-Match", "header", "")]
    [InlineData("updateUser", "If-Match", "header", "")]
    [InlineData("updateUser", "strategy", "query", "write-through invalidate write-behind")]
    [InlineData("getWeather", "units", "query", "metric imperial")]
    public async Task A_parameter_is_declared_with_its_values(string operation, string name, string place, string values)
    {
        var parameter = Operation(await DocumentAsync(), operation).GetProperty("parameters").EnumerateArray()
            .Single(parameter => parameter.GetProperty("name").GetString() == name);

        Assert.Equal(place, parameter.GetProperty("in").GetString());
        Assert.NotEmpty(parameter.GetProperty("description").GetString()!);
        Assert.Equal(
            values, parameter.GetProperty("schema").TryGetProperty("enum", out var known) ? string.Join(' ', known.EnumerateArray()) : "");
    }

    [Fact]
    public async Task Groups_are_described_in_the_order_in_which_a_newcomer_meets_them()
    {
        var tags = (await DocumentAsync()).GetProperty("tags").EnumerateArray().ToArray();

        Assert.Equal(["Sessions", "Users", "Weather", "Limits", "Cache", "Lab"], tags.Select(tag => tag.GetProperty("name").GetString()));
        Assert.All(tags, tag => Assert.NotEmpty(tag.GetProperty("description").GetString()!));
    }

    [Fact]
    public async Task All_problems_share_one_schema_and_one_example()
    {
        var document = await DocumentAsync();

        var problems = Operations(document)
            .SelectMany(operation => operation.GetProperty("responses").EnumerateObject())
            .Where(response => response.Name[0] >= '4')
            .Select(response => response.Value.GetProperty("content").GetProperty("application/problem+json"));
        Assert.All(problems, problem => Assert.Equal(
            ("#/components/schemas/ProblemDetails", "#/components/examples/Problem"),
            (problem.GetProperty("schema").GetProperty("$ref").GetString(),
                problem.GetProperty("examples").GetProperty("problem").GetProperty("$ref").GetString())));
        var example = document.GetProperty("components").GetProperty("examples").GetProperty("Problem").GetProperty("value");
        var schema = document.GetProperty("components").GetProperty("schemas").GetProperty("ProblemDetails").GetProperty("properties");
        Assert.Equal(
            schema.EnumerateObject().Select(member => member.Name).Order(),
            example.EnumerateObject().Select(member => member.Name).Order());
    }

    [Fact]
    public async Task The_example_of_a_login_is_the_administrator_of_the_development_setup_by_bearer_token()
    {
        var properties = (await DocumentAsync())
            .GetProperty("components").GetProperty("schemas").GetProperty("CreateSession").GetProperty("properties");

        Assert.Equal(
            ["admin@example.com", "development-only", "bearer"],
            new[] { "email", "password", "transport" }.Select(name => properties.GetProperty(name).GetProperty("examples")[0].GetString()));
    }

    [Fact]
    public async Task The_document_names_its_license_and_its_server_and_nothing_internal()
    {
        var document = await DocumentAsync();

        Assert.Equal("MIT", document.GetProperty("info").GetProperty("license").GetProperty("identifier").GetString());
        Assert.Equal("/", document.GetProperty("servers")[0].GetProperty("url").GetString());
        Assert.DoesNotMatch("SelfOrAdmin|JsonNode|Microsoft|System\\.", document.ToString());
        Assert.All(Operations(document), operation => Assert.StartsWith("Needs ", operation.GetProperty("description").GetString()));
        Assert.StartsWith(
            "Needs a session of the user with this id, or an administrator's.",
            Operation(document, "getUser").GetProperty("description").GetString());
    }

    [Fact]
    public async Task Swagger_ui_shows_the_schemas_collapsed()
    {
        var api = await servers.SharedApiAsync();

        Assert.Contains(
            "\"defaultModelsExpandDepth\":0", await api.Anonymous.GetStringAsync("/swagger/index.js"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Each_request_of_the_file_for_editors_is_one_of_the_document()
    {
        var document = await DocumentAsync();
        var operations = OpenApiOperation.AllOf(document);
        var file = await File.ReadAllTextAsync(ComposeTests.Root("docs/CachingApi.http"), TestContext.Current.CancellationToken);

        var requests = Requests().Matches(file).ToArray();

        Assert.True(requests.Length > 10);
        Assert.All(requests, request =>
        {
            var operation = Assert.Single(operations, known => known.Method == request.Groups["method"].Value
                && Regex.IsMatch(request.Groups["path"].Value, $"^{Regex.Replace(known.Path, @"\{\w+\}", "[^/]+")}$")
                && !(known.Path.EndsWith('}') && operations.Any(other => other.Path == request.Groups["path"].Value)));
            var query = request.Groups["query"].Value.Split('&', StringSplitOptions.RemoveEmptyEntries).Select(part => part.Split('=')[0]);
            var headers = Headers().Matches(request.Groups["headers"].Value).Select(header => header.Groups[1].Value)
                .Except(["Authorization", "Content-Type"]);
            Assert.Subset(operation.Parameters.Select(known => known.Name).ToHashSet(), query.Concat(headers).ToHashSet());
            if (request.Groups["body"].Value.Trim() is { Length: > 0 } body)
            {
                var fields = JsonSerializer.Deserialize<JsonElement>(body).EnumerateObject().Select(member => member.Name);
                Assert.Subset(operation.Body!.Select(known => known.Name).ToHashSet(), fields.ToHashSet());
            }
        });
    }

    private async Task<JsonElement> DocumentAsync()
    {
        var api = await servers.SharedApiAsync();
        return JsonSerializer.Deserialize<JsonElement>(await api.Anonymous.GetStringAsync("/swagger/v1/swagger.json"));
    }

    private static IEnumerable<JsonElement> Operations(JsonElement document) => document.GetProperty("paths").EnumerateObject()
        .SelectMany(path => path.Value.EnumerateObject().Select(operation => operation.Value));

    private static JsonElement Operation(JsonElement document, string name) =>
        Operations(document).Single(operation => operation.GetProperty("operationId").GetString() == name);

    [GeneratedRegex(
        @"^(?<method>[A-Z]+) \{\{api\}\}(?<path>[^?\n]+)(\?(?<query>.+))?\n(?<headers>([A-Z].*\n)*)(\n(?<body>\{.*))?",
        RegexOptions.Multiline)]
    private static partial Regex Requests();

    [GeneratedRegex("^([A-Za-z-]+):", RegexOptions.Multiline)]
    private static partial Regex Headers();
}
