using System.Net;
using System.Net.Http.Json;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;

namespace CachingApi.Tests.Sessions;

public sealed class SecurityEventsTests(TestServers servers)
{
    [Fact]
    public async Task Security_events_are_logged_with_user_session_and_network_and_no_secret()
    {
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["Network:KnownProxies:0"] = "127.0.0.1",
            ["Serilog:MinimumLevel:Override:CachingApi.Sessions.SecurityEvents"] = "Information",
        });
        var user = await api.CreateUserAsync();
        var events = new List<string>();
        async Task<HttpResponseMessage> SendAsync(HttpClient client, HttpMethod method, string path, object? body = null,
            string? site = null)
        {
            using var request = new HttpRequestMessage(method, path) { Content = body is null ? null : JsonContent.Create(body) };
            request.Headers.Add("X-Forwarded-For", "203.0.113.77");
            request.Headers.TryAddWithoutValidation("Sec-Fetch-Site", site);
            return await client.SendAsync(request);
        }

        Task<HttpResponseMessage> LogInAsync(string email, string password) =>
            SendAsync(api.Anonymous, HttpMethod.Post, "/sessions", new { email, password, transport = "bearer" });

        async Task<(HttpClient Client, string Session)> SessionAsync(string email)
        {
            var login = await (await LogInAsync(email, ApiNode.Password)).JsonAsync();
            var client = api.CreateClient();
            client.DefaultRequestHeaders.Authorization = new("Bearer", login.GetProperty("token").GetString());
            return (client, login.GetProperty("id").GetString()!);
        }

        async Task LoggedAsync(string start, string? userId, string? sessionId)
        {
            await Eventually.TrueAsync(() => api.Log.Any(line => !events.Contains(line)), "an event"); // some follow their answer
            var line = Assert.Single(api.Log, line => !events.Contains(line));
            Assert.StartsWith($"Security event {start}", Plain(line), StringComparison.Ordinal);
            Assert.Contains($"user {userId ?? "null"}, session {sessionId ?? "null"}, from 203.0.113.0/24", Plain(line),
                StringComparison.Ordinal);
            events.AddRange(api.Log);
        }

        events.AddRange(api.Log);
        var (client, session) = await SessionAsync(user.Email);
        using var _ = client;
        await LoggedAsync("login: success", $"{user.Id}", session);
        await LogInAsync(user.Email, "not the password");
        await LoggedAsync("login: failure", $"{user.Id}", null);
        await LogInAsync("nobody@example.org", "not the password");
        await LoggedAsync("login: failure", null, null);
        for (var failure = 0; failure <= LoginBackoff.FreeFailures; failure++)
        {
            await LogInAsync("somebody@example.org", "not the password");
        }

        events.AddRange(api.Log);
        Assert.Equal(HttpStatusCode.TooManyRequests, (await LogInAsync("somebody@example.org", "not the password")).StatusCode);
        await LoggedAsync("login: delayed", null, null);
        for (var failure = 0; failure <= LoginBackoff.FreeFailures; failure++)
        {
            await LogInAsync(user.Email, "not the password");
        }

        events.AddRange(api.Log);
        Assert.Equal(HttpStatusCode.TooManyRequests, (await LogInAsync(user.Email, "not the password")).StatusCode);
        await LoggedAsync("login: delayed", $"{user.Id}", null);

        var created = await SendAsync(
            api.Anonymous, HttpMethod.Post, "/users", new { email = "new@example.org", displayName = "Ada", password = ApiNode.Password });
        await LoggedAsync("registration: success", (await created.JsonAsync()).GetProperty("id").GetString(), null);
        await SendAsync(client, HttpMethod.Get, "/users");
        await LoggedAsync("access-denial: denied", $"{user.Id}", session);
        await SendAsync(api.Anonymous, HttpMethod.Post, "/sessions", new { email = user.Email, password = "x" }, "cross-site");
        await LoggedAsync("cross-site-request: denied", null, null);
        await SendAsync(api.Anonymous, HttpMethod.Get, "/limits/login", site: "cross-site");
        await LoggedAsync("cross-site-request: denied", null, null);

        var password = $"/users/{user.Id}/password";
        await SendAsync(client, HttpMethod.Put, password, new { currentPassword = "not the password", newPassword = "dew on the moss" });
        await LoggedAsync("password-change: failure", $"{user.Id}", session);
        await SendAsync(client, HttpMethod.Put, password, new { currentPassword = ApiNode.Password, newPassword = "dew on the moss" });
        await LoggedAsync("password-change: success", $"{user.Id}", session);
        await SendAsync(client, HttpMethod.Post, "/sessions/current/reauthentication", new { currentPassword = "dew on the moss" });
        await LoggedAsync("reauthentication: success", $"{user.Id}", session);
        await SendAsync(client, HttpMethod.Put, $"/users/{user.Id}", new { email = "next@example.org", displayName = "Ada" });
        await LoggedAsync("email-change: success", $"{user.Id}", session);
        await EmailChangeTests.AgeAsync(servers, api, user, TimeSpan.FromMinutes(11));
        await SendAsync(client, HttpMethod.Put, $"/users/{user.Id}", new { email = "later@example.org", displayName = "Ada" });
        await LoggedAsync("reauthentication: required", $"{user.Id}", session);
        await SendAsync(client, HttpMethod.Delete, "/sessions");
        await LoggedAsync("session-revocation: all others", $"{user.Id}", session);
        await SendAsync(client, HttpMethod.Delete, $"/sessions/{session}");
        await LoggedAsync("session-revocation: one", $"{user.Id}", session);
        await SendAsync(client, HttpMethod.Get, "/sessions/current");
        await LoggedAsync("session-rejection: The session does not exist.", null, null);

        var (admin, adminSession) = await SessionAsync(ApiNode.AdminEmail);
        using var __ = admin;
        var adminId = (await (await admin.GetAsync("/sessions/current")).JsonAsync()).GetProperty("userId").GetString();
        events.AddRange(api.Log);
        await SendAsync(admin, HttpMethod.Get, "/cache/stats");
        Assert.DoesNotContain(api.Log, line => !events.Contains(line));
        foreach (var (method, path, action) in new[]
        {
            (HttpMethod.Get, "/users", "success; GET /users on null"),
            (HttpMethod.Delete, "/cache/namespaces/users", "success; DELETE /cache/namespaces/{name} on null"),
            (HttpMethod.Delete, "/cache/namespaces/no-such", "failure; DELETE /cache/namespaces/{name} on null"),
            (HttpMethod.Get, $"/users/{user.Id}", $"success; GET /users/{{id}} on {user.Id}"),
            (HttpMethod.Get, "/cache/dead-letters", "success; GET /cache/dead-letters on null"),
        })
        {
            await SendAsync(admin, method, path);
            await LoggedAsync($"administrator-action: {action}", adminId, adminSession);
        }

        await SendAsync(admin, HttpMethod.Get, $"/users/{adminId}");
        Assert.DoesNotContain(api.Log, line => !events.Contains(line));
        await SendAsync(admin, HttpMethod.Delete, "/sessions/current");
        await LoggedAsync("logout: success", adminId, adminSession);

        foreach (var secret in new[]
        {
            user.Email, "nobody@", "next@", "later@", ApiNode.AdminEmail, ApiNode.Password, "not the password", "203.0.113.77",
            client.DefaultRequestHeaders.Authorization!.Parameter!, admin.DefaultRequestHeaders.Authorization!.Parameter!,
        })
        {
            Assert.DoesNotContain(api.Log, line => line.Contains(secret, StringComparison.Ordinal));
        }
    }

    private static string Plain(string line) => line.Replace("\"", "", StringComparison.Ordinal);
}
