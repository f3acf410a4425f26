using System.Globalization;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using CachingApi.Users;
using Microsoft.AspNetCore.Identity;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using Microsoft.Extensions.Time.Testing;
using Npgsql;
using StackExchange.Redis;

namespace CachingApi.Tests.Sessions;

/// <summary>Wrong passwords of attackers never keep an account's owner out.</summary>
public sealed class LoginBackoffTests(TestServers servers)
{
    private const string Home = "198.51.100.1", Elsewhere = "192.0.2.1";

    [Fact]
    public async Task Failures_from_one_network_delay_no_other_network_and_no_live_session()
    {
        await using var api = await StartAsync();
        var user = await api.CreateUserAsync();
        using var session = await api.LogInAsync(user.Email);

        for (var failure = 0; failure <= LoginBackoff.FreeFailures; failure++)
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, user, "wrong", "203.0.113.1")).StatusCode);
        }

        await UserContractTests.AssertProblemAsync(await LogInAsync(api, user, ApiNode.Password, "203.0.113.1"),
            HttpStatusCode.TooManyRequests);
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, user, ApiNode.Password, "203.0.113.2")).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await ChangeAsync(session, user, ApiNode.Password, "dew on the moss")).StatusCode);
    }

    [Fact]
    public async Task Many_networks_together_are_delayed_but_not_those_and_devices_that_have_logged_in_before()
    {
        await using var api = await StartAsync();
        var user = await api.CreateUserAsync();
        var first = await LogInAsync(api, user, ApiNode.Password, Home, "cookie");
        var device = Assert.Single(first.Headers.GetValues("Set-Cookie"),
            cookie => cookie.StartsWith("__Host-device=", StringComparison.Ordinal)).Split(';')[0];
        for (var failure = 0; failure <= LoginBackoff.FreeFailuresOfAccount; failure++)
        {
            var from = string.Create(CultureInfo.InvariantCulture, $"203.0.113.{1 + failure / LoginBackoff.FreeFailures}");
            Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, user, "wrong", from)).StatusCode);
        }

        // They must wait now. A busy machine must not take longer than that wait.
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var count = await CountAsync(api, redis, key => key.EndsWith(":all", StringComparison.Ordinal));
        Assert.True((long)(await redis.GetDatabase().HashGetAsync(count, "until")) > 0);
        await redis.GetDatabase().HashSetAsync(count, "until", TimeProvider.System.GetUtcNow().AddMinutes(5).ToUnixTimeMilliseconds());

        await UserContractTests.AssertProblemAsync(await LogInAsync(api, user, ApiNode.Password, Elsewhere),
            HttpStatusCode.TooManyRequests);
        await UserContractTests.AssertProblemAsync(
            await LogInAsync(api, user, ApiNode.Password, Elsewhere, cookie: $"__Host-device={DeviceCookie.New()}"),
            HttpStatusCode.TooManyRequests);
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, user, ApiNode.Password, Home)).StatusCode);
        var known = await LogInAsync(api, user, ApiNode.Password, Elsewhere, "cookie", device);
        Assert.Equal(HttpStatusCode.Created, known.StatusCode);
        Assert.DoesNotContain("__Host-device", known.Header("Set-Cookie"), StringComparison.Ordinal);
        // That also makes the network known.
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, user, ApiNode.Password, Elsewhere)).StatusCode);
        // The device is known only to this account.
        var other = await api.CreateUserAsync();
        await UserContractTests.AssertProblemAsync(await LogInAsync(api, other, "wrong", Elsewhere, cookie: device),
            HttpStatusCode.Unauthorized);
        Assert.DoesNotContain(await api.KeysAsync(), key => key.Contains(device.Split('=')[1], StringComparison.Ordinal));
    }

    [Fact]
    public async Task Known_clients_belong_to_the_account_and_not_to_its_address()
    {
        await using var api = await StartAsync();
        var user = await api.CreateUserAsync();
        await LogInAsync(api, user, ApiNode.Password, Home);
        using var session = await api.LogInAsync(user.Email);
        await session.PutAsJsonAsync($"/users/{user.Id}", new { email = "moved@example.org", displayName = "Ada" });
        var registration = await api.Anonymous.PostAsJsonAsync(
            "/users", new { email = user.Email, displayName = "Eve", password = ApiNode.Password });
        var successor = (await registration.Content.ReadFromJsonAsync<User>())!;

        Assert.True(await IsKnownAsync(api, "moved@example.org", user.Id));
        Assert.False(await IsKnownAsync(api, user.Email, successor.Id));
    }

    [Fact]
    public async Task A_new_password_makes_all_but_its_client_unknown_and_a_deletion_all()
    {
        await using var api = await StartAsync();
        var user = await api.CreateUserAsync();
        await LogInAsync(api, user, ApiNode.Password, Elsewhere);
        await LogInAsync(api, user, ApiNode.Password, Home);
        using var session = await api.LogInAsync(user.Email);
        session.DefaultRequestHeaders.Add("X-Forwarded-For", Home);

        Assert.Equal(HttpStatusCode.NoContent, (await ChangeAsync(session, user, ApiNode.Password, "dew on the moss")).StatusCode);

        Assert.True(await IsKnownAsync(api, user.Email, user.Id));
        Assert.False(await IsKnownAsync(api, user.Email, user.Id, Elsewhere));
        Assert.Equal(HttpStatusCode.NoContent, (await session.DeleteAsync($"/users/{user.Id}")).StatusCode);
        Assert.False(await IsKnownAsync(api, user.Email, user.Id));
    }

    [Fact]
    public async Task An_attempt_that_is_taken_back_delays_no_other()
    {
        await using var api = await StartAsync();
        var backoff = api.Services.GetRequiredService<LoginBackoff>();
        var client = new LoginClient("ip:203.0.113.1", null, "", "");
        Task<LoginAttempt> AttemptAsync() => backoff.AttemptAsync("ada@example.org", null, client, CancellationToken.None);
        for (var failure = 0; failure < LoginBackoff.FreeFailures; failure++)
        {
            await AttemptAsync();
        }

        await backoff.WithdrawAsync(await AttemptAsync(), CancellationToken.None);

        Assert.Equal(TimeSpan.Zero, (await AttemptAsync()).Wait);
        Assert.NotEqual(TimeSpan.Zero, (await AttemptAsync()).Wait);
    }

    [Fact]
    public async Task An_attempt_that_is_taken_back_leaves_the_wait_that_a_later_one_has_set()
    {
        await using var api = await StartAsync();
        var backoff = api.Services.GetRequiredService<LoginBackoff>();
        var client = new LoginClient("ip:203.0.113.1", null, "", "");
        Task<LoginAttempt> AttemptAsync() => backoff.AttemptAsync("ada@example.org", null, client, CancellationToken.None);
        for (var failure = 0; failure < LoginBackoff.FreeFailures; failure++)
        {
            await AttemptAsync();
        }

        var first = await AttemptAsync();
        await Eventually.TrueAsync(async () => (await AttemptAsync()).Wait == TimeSpan.Zero, "the first wait to be over");
        await backoff.WithdrawAsync(first, CancellationToken.None);

        Assert.NotEqual(TimeSpan.Zero, (await AttemptAsync()).Wait);
    }

    [Fact]
    public async Task A_session_checks_so_many_passwords_and_another_one_of_the_user_as_many()
    {
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["RateLimits:Enabled"] = "true",
            ["RateLimits:Policies:password:Limit"] = "2",
            ["RateLimits:Policies:password:Window"] = "1.00:00:00",
            ["RateLimits:Policies:default:Limit"] = "1",
            ["RateLimits:Policies:default:Window"] = "1.00:00:00",
        });
        var user = await api.CreateUserAsync();
        using var first = await api.LogInAsync(user.Email);
        using var second = await api.LogInAsync(user.Email);
        static Task<HttpResponseMessage> ReauthenticateAsync(HttpClient session) =>
            session.PostAsJsonAsync("/sessions/current/reauthentication", new { currentPassword = ApiNode.Password });

        // A request that checks no password costs no permit.
        Assert.Equal(HttpStatusCode.BadRequest, (await first.PutAsJsonAsync($"/users/{user.Id}/password", new { })).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await ReauthenticateAsync(first)).StatusCode);
        Assert.Equal(HttpStatusCode.Forbidden, (await ChangeAsync(first, user, "wrong", "dew on the moss")).StatusCode);
        var problem = await UserContractTests.AssertProblemAsync(await ReauthenticateAsync(first), HttpStatusCode.TooManyRequests);
        Assert.Equal("password", Assert.Single(problem.GetProperty("violated-policies").EnumerateArray()).GetString());
        Assert.Equal(HttpStatusCode.TooManyRequests, (await ChangeAsync(first, user, ApiNode.Password, "dew on the moss")).StatusCode);

        // One session uses up all permits of the user; another one can still change the password, and ends it.
        Assert.Equal(HttpStatusCode.OK, (await first.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.TooManyRequests, (await first.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await ChangeAsync(second, user, ApiNode.Password, "dew on the moss")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await first.GetAsync("/sessions")).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await second.DeleteAsync("/sessions")).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await second.DeleteAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task A_known_device_is_not_delayed_by_others_in_its_network_and_is_by_its_own_failures()
    {
        await using var api = await StartAsync();
        var user = await api.CreateUserAsync();
        var first = await LogInAsync(api, user, ApiNode.Password, Home, "cookie");
        var device = Assert.Single(first.Headers.GetValues("Set-Cookie"),
            cookie => cookie.StartsWith("__Host-device=", StringComparison.Ordinal)).Split(';')[0];

        for (var failure = 0; failure <= LoginBackoff.FreeFailures; failure++)
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, user, "wrong", Home)).StatusCode);
        }

        Assert.Equal(HttpStatusCode.TooManyRequests, (await LogInAsync(api, user, ApiNode.Password, Home)).StatusCode);
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, user, ApiNode.Password, Home, cookie: device)).StatusCode);

        for (var failure = 0; failure <= LoginBackoff.FreeFailures; failure++)
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, user, "wrong", Elsewhere, cookie: device)).StatusCode);
        }

        Assert.Equal(HttpStatusCode.TooManyRequests, (await LogInAsync(api, user, ApiNode.Password, Elsewhere, cookie: device)).StatusCode);
    }

    [Fact]
    public async Task Wrong_passwords_of_a_session_count_for_that_session_only()
    {
        await using var api = await StartAsync();
        var user = await api.CreateUserAsync();
        using var stolen = await api.LogInAsync(user.Email);
        using var own = await api.LogInAsync(user.Email);

        for (var failure = 0; failure <= LoginBackoff.FreeFailures; failure++)
        {
            Assert.Equal(HttpStatusCode.Forbidden, (await ChangeAsync(stolen, user, "wrong", "dew on the moss")).StatusCode);
        }

        await UserContractTests.AssertProblemAsync(await ChangeAsync(stolen, user, ApiNode.Password, "dew on the moss"),
            HttpStatusCode.TooManyRequests);
        var again = await stolen.PostAsJsonAsync("/sessions/current/reauthentication", new { currentPassword = ApiNode.Password });
        await UserContractTests.AssertProblemAsync(again, HttpStatusCode.TooManyRequests);
        Assert.Equal(HttpStatusCode.NoContent, (await ChangeAsync(own, user, ApiNode.Password, "dew on the moss")).StatusCode);
    }

    [Fact]
    public async Task A_session_checks_one_password_at_a_time()
    {
        await using var api = await StartAsync();
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);
        using var own = await api.LogInAsync(user.Email);
        Task<HttpResponseMessage> ReauthenticateAsync(HttpClient session) =>
            session.PostAsJsonAsync("/sessions/current/reauthentication", new { currentPassword = ApiNode.Password });
        await using var block = new NpgsqlConnection($"{api.Database};Pooling=false");
        await block.OpenAsync();
        await using (var command = new NpgsqlCommand("BEGIN; LOCK TABLE users", block))
        {
            await command.ExecuteNonQueryAsync();
        }

        Task<HttpResponseMessage>[] both = [ReauthenticateAsync(client), ReauthenticateAsync(client)];
        var refused = await await Task.WhenAny(both);
        await UserContractTests.AssertProblemAsync(refused, HttpStatusCode.TooManyRequests);
        Assert.Equal("1", refused.Header("Retry-After"));
        var other = ReauthenticateAsync(own);
        await block.CloseAsync();

        Assert.Equal(
            [HttpStatusCode.NoContent, HttpStatusCode.TooManyRequests],
            (await Task.WhenAll(both)).Select(answer => answer.StatusCode).Order());
        Assert.Equal(HttpStatusCode.NoContent, (await other).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await ReauthenticateAsync(client)).StatusCode);
    }

    [Fact]
    public async Task A_login_whose_password_is_not_checked_in_time_is_503_and_counts_as_no_failure()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["Serilog:MinimumLevel:Override:CachingApi.Sessions.SecurityEvents"] = "Information" }, time: time);
        var user = await api.CreateUserAsync();
        var passwords = api.Services.GetRequiredService<Passwords>();
        var slow = new PasswordHasher<object>(Options.Create(new PasswordHasherOptions { IterationCount = 1 })).HashPassword(new(), "x");
        var bytes = Convert.FromBase64String(slow);
        System.Buffers.Binary.BinaryPrimitives.WriteInt32BigEndian(bytes.AsSpan(5), 10_000_000);
        var busy = Enumerable.Range(0, Math.Max(1, Environment.ProcessorCount / 2))
            .Select(_ => passwords.VerifyAsync(Convert.ToBase64String(bytes), "x", preferred: true, "", CancellationToken.None)).ToArray();

        var login = LogInAsync(api, user, ApiNode.Password, Home);
        while (!login.IsCompleted)
        {
            time.Advance(TimeSpan.FromSeconds(1));
            await Task.Delay(20);
        }

        var answer = await login;
        await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.ServiceUnavailable);
        Assert.Equal("2", answer.Header("Retry-After"));
        Assert.Contains(api.Log, line => line.Contains("\"login\": \"unavailable\"", StringComparison.Ordinal));
        Assert.All(busy, check => Assert.False(check.IsCompleted));
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        Assert.Equal(0, (long)await redis.GetDatabase().HashGetAsync(
            await CountAsync(api, redis, key => !key.EndsWith(":all", StringComparison.Ordinal)), "failures"));
        Assert.Equal(0, (long)await redis.GetDatabase().HashGetAsync(
            await CountAsync(api, redis, key => key.EndsWith(":all", StringComparison.Ordinal)), "failures"));
        await Task.WhenAll(busy);
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, user, ApiNode.Password, Home)).StatusCode);
    }

    private static async Task<bool> IsKnownAsync(ApiNode api, string email, Guid userId, string from = Home)
    {
        var client = new LoginClient($"ip:{from}", null, "", "");
        return (await api.Services.GetRequiredService<LoginBackoff>().AttemptAsync(email, userId, client, CancellationToken.None)).IsKnown;
    }

    private Task<ApiNode> StartAsync() => ApiNode.StartAsync(servers, new() { ["Network:KnownProxies:0"] = "127.0.0.1" });

    /// <summary>The key of a count of failures; the only one of its kind.</summary>
    private static async Task<RedisKey> CountAsync(ApiNode api, ConnectionMultiplexer redis, Func<string, bool> which)
    {
        var keys = new List<RedisKey>();
        foreach (var key in redis.GetServers().SelectMany(server => server.Keys(pattern: $"{api.KeyPrefix}:logins:*")))
        {
            if (which(key.ToString()) && await redis.GetDatabase().KeyTypeAsync(key) is RedisType.Hash)
            {
                keys.Add(key);
            }
        }

        return Assert.Single(keys);
    }

    private static async Task<HttpResponseMessage> LogInAsync(
        ApiNode api, User user, string password, string from, string transport = "bearer", string? cookie = null)
    {
        using var client = api.CreateBareClient();
        using var request = new HttpRequestMessage(HttpMethod.Post, "/sessions");
        request.Content = JsonContent.Create(new { email = user.Email, password, transport });
        request.Headers.Add("X-Forwarded-For", from);
        if (cookie is not null)
        {
            request.Headers.Add("Cookie", cookie);
        }

        return await client.SendAsync(request);
    }

    private static Task<HttpResponseMessage> ChangeAsync(HttpClient client, User user, string current, string next) =>
        client.PutAsJsonAsync($"/users/{user.Id}/password", new { currentPassword = current, newPassword = next });
}
