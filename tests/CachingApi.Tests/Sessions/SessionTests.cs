using System.Net;
using System.Net.Http.Json;
using CachingApi.Redis;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Sessions;

public sealed class SessionTests(TestServers servers)
{
    [Fact]
    public async Task A_bearer_session_works_until_it_is_ended()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();

        var created = await api.Anonymous.PostAsJsonAsync(
            "/sessions", new { email = user.Email.ToUpperInvariant(), password = ApiNode.Password, transport = "bearer" });
        Assert.Equal(HttpStatusCode.Created, created.StatusCode);
        Assert.Equal("no-store", created.Header("Cache-Control"));
        Assert.Empty(created.Header("Set-Cookie"));
        var session = await created.JsonAsync();
        Assert.Equal(user.Id, session.GetProperty("userId").GetGuid());
        using var client = api.CreateClient();
        client.DefaultRequestHeaders.Authorization = new("Bearer", session.GetProperty("token").GetString());

        var current = await client.GetAsync(created.Headers.Location);
        Assert.Equal(HttpStatusCode.OK, current.StatusCode);
        Assert.Equal("no-store", current.Header("Cache-Control"));
        var shown = await current.JsonAsync();
        Assert.Equal(session.GetProperty("id").GetGuid(), shown.GetProperty("id").GetGuid());
        Assert.Equal("user", shown.GetProperty("role").GetString());
        Assert.InRange((shown.GetProperty("expiresAt").GetDateTime() - shown.GetProperty("lastSeenAt").GetDateTime()).TotalHours, 23.9, 24);

        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync("/sessions/current")).StatusCode);
        var ended = await client.GetAsync("/sessions/current");
        await UserContractTests.AssertProblemAsync(ended, HttpStatusCode.Unauthorized);
        Assert.Equal("Bearer error=\"invalid_token\"", ended.Header("WWW-Authenticate"));
        Assert.Equal(1, await api.MetricAsync("sessions_total", ("event", "created")));
        Assert.Equal(1, await api.MetricAsync("sessions_total", ("event", "ended")));
    }

    [Fact]
    public async Task A_short_lived_session_has_an_idle_limit_of_ten_minutes()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        var created = await api.Anonymous.PostAsJsonAsync(
            "/sessions", new { email = user.Email, password = ApiNode.Password, transport = "bearer", shortLived = true });
        using var client = api.CreateClient();
        client.DefaultRequestHeaders.Authorization = new("Bearer", (await created.JsonAsync()).GetProperty("token").GetString());
        var state = api.Services.GetRequiredService<RedisConnections>().State;
        var key = $"{api.KeyPrefix}:{(await api.KeysAsync()).Single(name => name.Contains("sessions", StringComparison.Ordinal)
            && !name.EndsWith("index", StringComparison.Ordinal) && !name.EndsWith("revoked", StringComparison.Ordinal))}";
        async Task<double> MinutesAsync() => (await state.KeyTimeToLiveAsync(key))!.Value.TotalMinutes;
        Assert.InRange(await MinutesAsync(), 9.5, 10);

        // A use is recorded after half a minute, and extends the session.
        await state.HashDecrementAsync(key, "seen", 31_000);
        await state.KeyExpireAsync(key, TimeSpan.FromMinutes(2));
        var shown = await (await client.GetAsync("/sessions/current")).JsonAsync();

        Assert.InRange(await MinutesAsync(), 9.5, 10);
        Assert.InRange((shown.GetProperty("expiresAt").GetDateTime() - shown.GetProperty("lastSeenAt").GetDateTime()).TotalMinutes, 10, 10);
        var listed = (await (await client.GetAsync("/sessions")).JsonAsync())[0];
        Assert.Equal(shown.GetProperty("expiresAt").GetDateTime(), listed.GetProperty("expiresAt").GetDateTime());
    }

    [Fact]
    public async Task A_cookie_session_works_until_it_is_ended()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var created = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password });
        var cookie = created.Header("Set-Cookie");
        Assert.Matches(
            "^__Host-session=[A-Za-z0-9_-]{64}; path=/; secure; samesite=lax; httponly, "
            + "__Host-device=[A-Za-z0-9_-]{43}; max-age=7776000; path=/; secure; samesite=lax; httponly$",
            cookie);
        Assert.False(
            (await created.JsonAsync()).TryGetProperty("token", out var token)
                && token.ValueKind is not System.Text.Json.JsonValueKind.Null);
        using var client = api.CreateBareClient();
        client.DefaultRequestHeaders.Add("Cookie", cookie.Split(';')[0]);

        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync($"/users/{user.Id}")).StatusCode);
        var loggedOut = await client.DeleteAsync("/sessions/current");
        Assert.Equal(HttpStatusCode.NoContent, loggedOut.StatusCode);
        Assert.Matches(
            "^__Host-session=; expires=Thu, 01 Jan 1970 00:00:00 GMT; path=/; secure; samesite=lax; httponly$",
            loggedOut.Header("Set-Cookie"));
        Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync($"/users/{user.Id}")).StatusCode);
    }

    [Fact]
    public async Task A_token_counts_only_in_the_way_it_was_issued()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var cookie = await api.Anonymous.PostAsJsonAsync(
            "/sessions", new { email = user.Email, password = ApiNode.Password, transport = "cookie" });
        using var client = api.CreateClient();
        client.DefaultRequestHeaders.Authorization = new("Bearer", cookie.Header("Set-Cookie").Split('=', ';')[1]);

        Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync("/sessions/current")).StatusCode);
    }

    [Theory]
    [InlineData("")]
    [InlineData("x")]
    [InlineData("AZgMbn0AeyCdTzpLXG1-jwJ5m0yv3sKq8ZrXo1bNhT4uQwEcVfRtGyHjUkLpMnBv")]
    [InlineData("'; DROP TABLE users; --")]
    public async Task A_token_that_was_never_issued_is_a_401(string token)
    {
        var api = await servers.SharedApiAsync();
        using var client = api.CreateClient();
        client.DefaultRequestHeaders.TryAddWithoutValidation("Authorization", $"Bearer {token}");
        await UserContractTests.AssertProblemAsync(await client.GetAsync("/sessions/current"), HttpStatusCode.Unauthorized);
    }

    [Fact]
    public async Task An_unknown_address_and_a_wrong_password_are_answered_alike()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();

        var unknown = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = "nobody@example.org", password = ApiNode.Password });
        var wrong = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = "not the password" });

        foreach (var answer in new[] { unknown, wrong })
        {
            var problem = await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.Unauthorized);
            Assert.Equal("The e-mail address or the password is wrong.", problem.GetProperty("detail").GetString());
        }

        Assert.Equal(2, await api.MetricAsync("sessions_total", ("event", "refused")));
    }

    [Theory]
    [InlineData("""{"email":"a@example.org","password":"dew on the moss","transport":"pigeon"}""")]
    [InlineData("""{"email":"a@example.org","password":"dew on the moss","transport":1}""")]
    [InlineData("""{"email":"a@example.org"}""")]
    [InlineData("""{}""")]
    public async Task A_bad_login_is_a_400(string body)
    {
        var api = await servers.SharedApiAsync();
        var answer = await api.Anonymous.PostAsync("/sessions", new StringContent(body, System.Text.Encoding.UTF8, "application/json"));
        await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.BadRequest);
    }

    [Fact]
    public async Task Redis_holds_no_token_that_can_log_in()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);
        var token = client.DefaultRequestHeaders.Authorization!.Parameter!;
        await client.GetAsync("/sessions/current");

        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var key = Assert.Single(
            await api.KeysAsync(),
            key => key.StartsWith("sessions:", StringComparison.Ordinal) && !key.EndsWith(":index", StringComparison.Ordinal));
        Assert.Equal($"sessions:{{{user.Id}}}:{SessionToken.Parse(token)!.Value.Hash}", key);
        Assert.DoesNotContain(token, key, StringComparison.Ordinal);
        var values = await redis.GetDatabase().HashGetAllAsync($"{api.KeyPrefix}:{key}");
        Assert.DoesNotContain(
            values, value => value.Value.ToString().Contains(token, StringComparison.Ordinal) || value.Value == user.Email);
        Assert.InRange((await redis.GetDatabase().KeyTimeToLiveAsync($"{api.KeyPrefix}:{key}"))!.Value.TotalHours, 23.9, 24);
    }

    /// <summary>A revocation removes the sessions that the index names; others are refused because they are older.</summary>
    [Fact]
    public async Task A_revoked_session_is_refused_even_if_the_index_has_lost_it()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Sessions:MemoryTtl"] = "00:00:00" });
        var user = await api.CreateUserAsync();
        using var here = await api.LogInAsync(user.Email);
        using var there = await api.LogInAsync(user.Email);
        var other = (await (await there.GetAsync("/sessions/current")).JsonAsync()).GetProperty("id").GetString();
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        Assert.True(await redis.GetDatabase().HashDeleteAsync($"{api.KeyPrefix}:sessions:{{{user.Id}}}:index", other));

        Assert.Equal(HttpStatusCode.NoContent, (await here.DeleteAsync("/sessions")).StatusCode);

        Assert.Equal(HttpStatusCode.Unauthorized, (await there.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await here.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task A_session_that_is_not_used_ends_and_one_that_is_used_lasts_to_its_absolute_limit()
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["Sessions:Idle"] = "00:00:02", ["Sessions:Absolute"] = "00:00:05" });
        var user = await api.CreateUserAsync();
        using var used = await api.LogInAsync(user.Email);
        using var unused = await api.LogInAsync(user.Email);
        var born = (await (await used.GetAsync("/sessions/current")).JsonAsync()).GetProperty("createdAt").GetDateTime();
        var lastSeen = born;

        await Eventually.TrueAsync(async () =>
        {
            var answer = await used.GetAsync("/sessions/current");
            if (answer.StatusCode is HttpStatusCode.OK)
            {
                lastSeen = (await answer.JsonAsync()).GetProperty("lastSeenAt").GetDateTime();
            }

            return answer.StatusCode is HttpStatusCode.Unauthorized;
        });

        Assert.Equal(HttpStatusCode.Unauthorized, (await unused.GetAsync("/sessions/current")).StatusCode);
        // The session outlived the idle limit, but not the absolute one.
        Assert.InRange((lastSeen - born).TotalSeconds, 2.1, 5);
    }

    [Fact]
    public async Task Logging_in_again_ends_the_session_that_the_request_carries()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);

        var again = await client.PostAsJsonAsync(
            "/sessions", new { email = user.Email, password = ApiNode.Password, transport = "bearer" });

        Assert.Equal(HttpStatusCode.Created, again.StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task A_deleted_user_is_logged_out_everywhere()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var here = await api.LogInAsync(user.Email);
        using var there = await api.LogInAsync(user.Email);

        Assert.Equal(HttpStatusCode.NoContent, (await here.DeleteAsync($"/users/{user.Id}")).StatusCode);

        Assert.Equal(HttpStatusCode.Unauthorized, (await here.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await there.GetAsync("/sessions/current")).StatusCode);
        var login = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password });
        Assert.Equal(HttpStatusCode.Unauthorized, login.StatusCode);
    }

    [Fact]
    public async Task Without_redis_a_session_cannot_be_checked_which_is_a_temporary_503()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString, ["Redis:StateDeadline"] = "00:00:00.500" });
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);

        await redis.PauseAsync();
        var away = await client.GetAsync($"/users/{user.Id}");
        await UserContractTests.AssertProblemAsync(away, HttpStatusCode.ServiceUnavailable);
        Assert.Equal("1", away.Header("Retry-After"));
        var login = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password });
        await UserContractTests.AssertProblemAsync(login, HttpStatusCode.ServiceUnavailable);
        // A route without a session still works.
        Assert.Equal(HttpStatusCode.BadRequest, (await client.PostAsJsonAsync("/users", new { })).StatusCode);

        await redis.ResumeAsync();
        await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{user.Id}")).StatusCode is HttpStatusCode.OK);
    }
}
