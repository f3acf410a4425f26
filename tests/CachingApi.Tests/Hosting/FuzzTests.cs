using System.Collections.Concurrent;
using System.Net.Http.Json;
using System.Text.Json;
using System.Text.Json.Nodes;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Weather;
using CsCheck;

namespace CachingApi.Tests.Hosting;

/// <summary>
/// Sends generated requests, valid and invalid, to every operation of the OpenAPI document. If an answer is wrong, the failure shows the
/// smallest request that CsCheck has found, and the seed that generates it again (<c>CsCheck_Seed</c>).
/// </summary>
public sealed class FuzzTests(TestServers servers, ITestOutputHelper output)
{
    private const int Requests = 6000;

    /// <summary>The operations that succeed only with an id that no generator can produce.</summary>
    private static readonly string[] RareSuccesses =
        ["POST /cache/dead-letters/{id}/retry", "DELETE /cache/dead-letters/{id}", "GET /cache/warm/{id}"];

    [Fact]
    public async Task No_request_causes_a_500_and_each_answer_is_one_that_the_document_declares()
    {
        await using var upstream = await FakeOpenMeteo.StartAsync(TimeProvider.System, "--urls", "http://127.0.0.1:0");
        await using var api = await ApiNode.StartAsync(servers, WeatherNode.Settings(upstream, Settings()));
        var document = await api.Anonymous.GetStringAsync("/swagger/v1/swagger.json");
        var operations = OpenApiOperation.AllOf(JsonSerializer.Deserialize<JsonElement>(document));
        using var accounts = new Accounts(api);
        var statuses = new ConcurrentDictionary<(string Operation, int Status), int>();
        Task SampleAsync(IEnumerable<OpenApiOperation> some, int count) => Gen.OneOf([.. some.Select(FuzzRequests.Of)]).SampleAsync(
            async request =>
            {
                var session = await accounts.OfAsync(request.Credential);
                var answer = await RawRequest.SendAsync(
                    api.Anonymous.BaseAddress!,
                    request.Bytes(session.Header, accounts.Resolve),
                    reset: request.Framing is Framing.Reset,
                    close: request.Framing is Framing.CutOff);
                if (Problem(request, answer) is { } problem)
                {
                    var log = string.Join('\n', api.Log.TakeLast(3));
                    throw new InvalidOperationException($"{problem}\n{answer?.Head}\n\n{answer?.Body}\n\nThe log:\n{log}");
                }

                if (answer is not null)
                {
                    statuses.AddOrUpdate((request.Operation.Name, answer.Status), 1, (_, count) => count + 1);
                    accounts.Seen(request.Credential, session, answer.Status);
                }
            },
            writeLine: output.WriteLine,
            iter: count,
            threads: 4);

        OpenApiOperation[] WithoutSuccess() =>
        [
            .. operations.Where(operation => !RareSuccesses.Contains(operation.Name)
                && !statuses.Keys.Any(status => status.Operation == operation.Name && status.Status is >= 200 and < 300)),
        ];

        await SampleAsync(operations, Requests);
        for (var round = 0; round < 10 && WithoutSuccess() is { Length: > 0 } rare; round++)
        {
            await SampleAsync(rare, 500);
        }

        foreach (var operation in statuses.GroupBy(status => status.Key.Operation).OrderBy(group => group.Key))
        {
            var counts = operation.OrderBy(status => status.Key.Status).Select(status => $"{status.Key.Status} {status.Value}×");
            output.WriteLine($"{operation.Key}: {string.Join(", ", counts)}");
        }

        // If an operation never succeeds, its requests do not reach the tested code.
        Assert.Empty(WithoutSuccess().Select(operation => operation.Name));
        // A client that has disconnected gets no answer, so only the log shows the result of its request.
        Assert.DoesNotContain(api.Log, line => line.Contains("responded 500", StringComparison.Ordinal));
    }

    /// <summary>All limits are decided, and only the demo policies are used up.</summary>
    private static Dictionary<string, string> Settings()
    {
        var settings = new Dictionary<string, string>
        {
            // The lab without its faults, which would disturb other tests.
            ["environment"] = "Production",
            ["Lab:Enabled"] = "true",
            ["RateLimits:Enabled"] = "true",
            ["Weather:Budget:PerMinute"] = "1000000",
            ["Weather:Budget:PerHour"] = "10000000",
            ["Weather:Budget:PerDay"] = "100000000",
        };
        var options = JsonNode.Parse(
            File.ReadAllText(ComposeTests.Root("appsettings.json")),
            documentOptions: new() { CommentHandling = JsonCommentHandling.Skip })!;
        foreach (var (name, policy) in options["RateLimits"]!["Policies"]!.AsObject())
        {
            if (!name.StartsWith("demo-", StringComparison.Ordinal))
            {
                settings[$"RateLimits:Policies:{name}:Limit"] = $"{policy!["Algorithm"]}" is "sliding-window" ? "1000" : "1000000";
            }
        }

        return settings;
    }

    private static string? Problem(FuzzRequest request, RawAnswer? answer)
    {
        if (answer is null)
        {
            return request.Framing is Framing.ContentLength or Framing.Chunked ? "There is no answer." : null;
        }

        // The server refuses invalid HTTP before the service receives it, without a body. Every answer of the service has this header.
        if (answer.Header("Content-Security-Policy").Length == 0)
        {
            return answer is { Status: 400 or 408 or 413 or 414 or 431, Body: "" } ? null : "This answer does not come from the service.";
        }

        if (answer.Status >= 500 && (answer.Status != 503 || answer.Header("Retry-After").Length == 0))
        {
            return "This is a fault of the service.";
        }

        if (request.Operation.Undeclared(answer.Status, answer.Header("Content-Type"), answer.Body) is { } undeclared)
        {
            return undeclared;
        }

        if (request.Operation.UndeclaredHeaders(answer.Status, answer.Header) is [_, ..] headers)
        {
            return $"{string.Join(", ", headers)} with {answer.Status} is not declared.";
        }

        return answer.Status < 400 || IsProblem(answer) ? null : "This error is not a problem document (RFC 9457).";
    }

    private static bool IsProblem(RawAnswer answer)
    {
        var problem = JsonSerializer.Deserialize<JsonElement>(answer.Body);
        return answer.Header("Content-Type").StartsWith("application/problem+json", StringComparison.Ordinal)
            && problem.GetProperty("status").GetInt32() == answer.Status
            && problem.EnumerateObject().GroupBy(member => member.Name).All(members => members.Count() == 1)
            && new[] { "type", "title", "detail", "traceId" }.All(member => problem.GetProperty(member).GetString() is { Length: > 0 });
    }

    /// <summary>One account for each kind of session; a new one when requests have ended the session or deleted the account.</summary>
    private sealed class Accounts(ApiNode api) : IDisposable
    {
        private readonly SemaphoreSlim _one = new(1);
        private readonly ConcurrentDictionary<Credential, FuzzSession> _sessions = new();

        public async Task<FuzzSession> OfAsync(Credential credential)
        {
            if (credential is Credential.None)
            {
                return FuzzSession.None;
            }

            await _one.WaitAsync();
            try
            {
                return _sessions.TryGetValue(credential, out var session) ? session : _sessions[credential] = await StartAsync(credential);
            }
            finally
            {
                _one.Release();
            }
        }

        public void Seen(Credential credential, FuzzSession session, int status)
        {
            if (status is 401)
            {
                _sessions.TryRemove(new(credential, session));
            }
        }

        public string Resolve(string target)
        {
            var user = _sessions.GetValueOrDefault(Credential.UserByToken) ?? FuzzSession.None;
            var admin = _sessions.GetValueOrDefault(Credential.AdminByToken) ?? FuzzSession.None;
            return target.Replace("<user>", user.UserId, StringComparison.Ordinal)
                .Replace("<session>", user.SessionId, StringComparison.Ordinal)
                .Replace("<admin>", admin.UserId, StringComparison.Ordinal);
        }

        public void Dispose() => _one.Dispose();

        private async Task<FuzzSession> StartAsync(Credential credential)
        {
            var user = await api.CreateUserAsync();
            if (credential is Credential.AdminByToken)
            {
                await api.SqlAsync($"UPDATE users SET role = 'admin' WHERE id = '{user.Id}'");
            }

            using var client = api.CreateBareClient();
            var transport = credential is Credential.UserByCookie ? "cookie" : "bearer";
            var answer = await client.PostAsJsonAsync("/sessions", new { user.Email, ApiNode.Password, transport });
            answer.EnsureSuccessStatusCode();
            var session = await answer.JsonAsync();
            var header = transport is "cookie"
                ? $"Cookie: {answer.Header("Set-Cookie").Split(';')[0]}\r\n"
                : $"Authorization: Bearer {session.GetProperty("token").GetString()}\r\n";
            return new(user.Id.ToString(), session.GetProperty("id").GetString()!, header);
        }
    }

    private sealed record FuzzSession(string UserId, string SessionId, string Header)
    {
        public static FuzzSession None { get; } = new(Guid.Empty.ToString(), Guid.Empty.ToString(), "");
    }
}
