using System.Net;
using System.Net.Http.Json;
using System.Text.RegularExpressions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Npgsql;

namespace CachingApi.Tests.Hosting;

/// <summary>The data that operators see, with and without faults.</summary>
public sealed partial class RedactionTests(TestServers servers)
{
    private const string Wrong = "not the password at all";
    private const string Next = "dew on the moss of may";
    private const string Name = "Augusta Ada Byron";

    [Fact]
    public async Task No_password_token_or_address_is_in_a_log_a_metric_a_span_or_a_key()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var redisProxy = new FaultProxy(redis.Port);
        await using var postgres = await PostgresServer.StartAsync();
        await using var postgresProxy = new FaultProxy(postgres.Port);
        await using var collector = await OtlpReceiver.StartAsync();
        var settings = new Dictionary<string, string>(collector.Settings)
        {
            ["ConnectionStrings:Postgres"] = new NpgsqlConnectionStringBuilder(postgres.ConnectionString)
            {
                Port = postgresProxy.Port,
                Timeout = 2,
                CommandTimeout = 2,
            }.ConnectionString,
            ["ConnectionStrings:Redis"] = redisProxy.ConnectionString,
            ["Redis:StateDeadline"] = "00:00:00.500",
            ["Cache:RedisDeadline"] = "00:00:00.500",
            ["Serilog:MinimumLevel:Default"] = "Debug",
            ["Serilog:MinimumLevel:Override:Microsoft"] = "Debug",
            ["Serilog:MinimumLevel:Override:Polly"] = "Debug",
        };
        var (addresses, tokens) = (new List<string>(), new List<string>());
        string log, metrics;
        await using (var api = await ApiNode.StartAsync(servers, settings))
        {
            await UseAsync(api, addresses, tokens);
            var keys = string.Join('\n', await api.KeysAsync(redis.ConnectionString));
            AssertHoldsNone(keys, "the keys", [.. addresses, .. tokens, ApiNode.Password, Wrong, Next, Name]);

            postgresProxy.Cut();
            await UseAsync(api, addresses, tokens);
            redisProxy.Cut();
            await UseAsync(api, addresses, tokens);
            postgresProxy.Mend();
            await UseAsync(api, addresses, tokens);
            redisProxy.Mend();

            metrics = await api.Anonymous.GetStringAsync("/metrics");
            var (traced, last) = (Guid.NewGuid().ToString("N"), new HttpRequestMessage(HttpMethod.Get, "/limits"));
            last.Headers.Add("traceparent", $"00-{traced}-00f067aa0ba902b7-01");
            await api.Anonymous.SendAsync(last);
            await Eventually.TrueAsync(() => collector.Spans.Any(span => span.TraceId == traced), "the last span");
            log = string.Join('\n', api.Log);
        }

        // The log, the metrics and the spans do contain the requests.
        Assert.Contains("POST", log, StringComparison.Ordinal);
        Assert.Contains("responded 503", log, StringComparison.Ordinal);
        Assert.Contains("INSERT INTO users", collector.Text, StringComparison.Ordinal);
        Assert.True(tokens.Count >= 2 && addresses.Count >= 8);
        string[] secrets =
        [
            .. addresses, .. tokens, .. tokens.Select(token => token[22..]), ApiNode.Password, ApiNode.AdminEmail, Wrong, Next, Name,
            "Password=",
        ];
        AssertHoldsNone(log, "the log", secrets);
        AssertHoldsNone(metrics, "the metrics", secrets);
        AssertHoldsNone(collector.Text, "the spans", secrets);
        Assert.DoesNotContain(
            metrics.Split('\n'), line => Uuid().IsMatch(line) && !line.StartsWith("target_info", StringComparison.Ordinal));
    }

    [Fact]
    public async Task An_internal_error_is_a_500_without_details_and_a_log_line_with_all_of_them()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var client = await api.AdminAsync();
        await api.SqlAsync("ALTER TABLE users RENAME TO somebody");

        var answer = await client.GetAsync("/users?limit=3");

        Assert.Equal(HttpStatusCode.InternalServerError, answer.StatusCode);
        Assert.DoesNotContain("users", await answer.Content.ReadAsStringAsync(), StringComparison.Ordinal);
        await Eventually.TrueAsync(() => api.Log.Any(line => line.Contains("responded 500", StringComparison.Ordinal)), "the line");
        var line = Assert.Single(api.Log, line => line.Contains("responded 500", StringComparison.Ordinal));
        Assert.Contains("42P01", line, StringComparison.Ordinal);
        Assert.Contains("at CachingApi.Users.UserRepository.ListAsync", line, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("/limits", HttpStatusCode.OK, "HTTP GET /limits responded 200 in ")]
    [InlineData("/no-such-route", HttpStatusCode.NotFound, "HTTP GET /no-such-route responded 404 in ")]
    [InlineData("/sessions", HttpStatusCode.ServiceUnavailable, "HTTP GET /sessions responded 503 in ")]
    public async Task A_request_is_one_line_with_its_trace(string path, HttpStatusCode status, string line)
    {
        await using var api = await ApiNode.StartAsync(
            servers,
            new() { ["Serilog:MinimumLevel:Default"] = "Information", ["ConnectionStrings:RedisState"] = "127.0.0.1:9" },
            whenTrusted: false);
        var trace = Guid.NewGuid().ToString("N");
        using var request = new HttpRequestMessage(HttpMethod.Get, path)
        {
            Headers = { { "traceparent", $"00-{trace}-00f067aa0ba902b7-01" } },
        };
        request.Headers.Authorization = new("Bearer", new string('A', 64));

        Assert.Equal(status, (await api.Anonymous.SendAsync(request)).StatusCode);

        await Eventually.TrueAsync(() => api.Log.Any(entry => entry.Contains(trace, StringComparison.Ordinal)), "the line");
        var lines = api.Log.Where(entry => entry.Contains(trace, StringComparison.Ordinal)).ToArray();
        Assert.True(lines.Length == 1, string.Join('\n', lines));
        Assert.StartsWith(line, lines[0].Replace("\"", "", StringComparison.Ordinal), StringComparison.Ordinal);
    }

    /// <summary>Registration, logins right and wrong, use of a session, changes of a user and of a password: each may fail.</summary>
    private static async Task UseAsync(ApiNode api, List<string> addresses, List<string> tokens)
    {
        var email = $"{Guid.NewGuid():N}@example.org";
        addresses.Add(email);
        addresses.Add(email.Split('@')[0]);
        using var client = api.CreateBareClient();
        var created = await client.PostAsJsonAsync("/users", new { email, displayName = Name, password = ApiNode.Password });
        await client.PostAsJsonAsync("/users", new { email, displayName = Name, password = ApiNode.Password });
        await client.PostAsJsonAsync("/users", new { email, displayName = Name, password = "1234567", role = "admin" });
        await client.PostAsJsonAsync("/sessions", new { email, password = Wrong });
        foreach (var transport in new[] { "bearer", "cookie" })
        {
            var login = await client.PostAsJsonAsync("/sessions", new { email, password = ApiNode.Password, transport });
            if (login.IsSuccessStatusCode)
            {
                tokens.Add(
                    transport == "bearer"
                        ? (await login.JsonAsync()).GetProperty("token").GetString()!
                        : login.Header("Set-Cookie").Split('=', ';')[1]);
            }
        }

        // While Redis is away, tokens from before, which cannot be checked.
        using var session = api.CreateBareClient();
        session.DefaultRequestHeaders.Authorization = new("Bearer", tokens[^2]);
        var id = created.Headers.Location?.ToString() ?? $"/users/{Guid.NewGuid()}";
        await session.GetAsync("/sessions/current");
        await session.GetAsync(id);
        foreach (var strategy in new[] { "write-through", "write-behind" })
        {
            await session.PutAsJsonAsync($"{id}?strategy={strategy}", new { email, displayName = Name });
        }

        await session.PutAsJsonAsync($"{id}/password", new { currentPassword = Wrong, newPassword = Next });
        await session.PutAsJsonAsync($"{id}/password", new { currentPassword = ApiNode.Password, newPassword = Next });
        await session.PostAsJsonAsync("/sessions", new { email, password = Next });
    }

    private static void AssertHoldsNone(string text, string place, string[] secrets)
    {
        foreach (var secret in secrets)
        {
            var found = text.IndexOf(secret, StringComparison.OrdinalIgnoreCase);
            Assert.True(
                found < 0,
                $"{secret} is in {place}: …{text[Math.Max(0, found - 200)..Math.Min(text.Length, Math.Max(0, found) + 100)]}…");
        }
    }

    [GeneratedRegex("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-")]
    private static partial Regex Uuid();
}
