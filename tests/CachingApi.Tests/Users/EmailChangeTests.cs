using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using CachingApi.Caching;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Users;

/// <summary>Operations that can take an account over: the change of its e-mail address, and its deletion.</summary>
public sealed class EmailChangeTests(TestServers servers)
{
    [Theory]
    [InlineData("write-through")]
    [InlineData("invalidate")]
    [InlineData("write-behind")]
    public async Task Another_address_is_written_at_once_and_ends_the_other_sessions(string strategy)
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var here = await api.LogInAsync(user.Email);
        using var there = await api.LogInAsync(user.Email);
        var next = $"{Guid.NewGuid():N}@example.org";

        // The same address in another letter case is not another address.
        await PutAsync(here, user, user.Email.ToUpperInvariant(), strategy);
        Assert.Equal(HttpStatusCode.OK, (await there.GetAsync("/sessions/current")).StatusCode);

        var answer = await PutAsync(here, user, next, strategy);
        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);

        Assert.Equal(next, await api.SqlAsync<string>($"SELECT email_key FROM users WHERE id = '{user.Id}'"));
        Assert.Equal(next, (await here.GetFromJsonAsync<User>($"/users/{user.Id}"))!.Email);
        Assert.Equal(HttpStatusCode.OK, (await here.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await there.GetAsync("/sessions/current")).StatusCode);
        using var again = await api.LogInAsync(next);

        using var admin = await api.AdminAsync();
        Assert.Equal(HttpStatusCode.OK, (await PutAsync(admin, user, user.Email, strategy)).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await here.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await admin.GetAsync("/sessions/current")).StatusCode);
    }

    [Theory]
    [InlineData("write-through")]
    [InlineData("invalidate")]
    [InlineData("write-behind")]
    public async Task An_address_in_use_is_refused_before_it_is_acknowledged(string strategy)
    {
        await using var api = await ApiNode.StartAsync(servers);
        var (user, owner) = (await api.CreateUserAsync(), await api.CreateUserAsync());
        using var client = await api.LogInAsync(user.Email);
        using var other = await api.LogInAsync(user.Email);

        await UserContractTests.AssertProblemAsync(await PutAsync(client, user, owner.Email, strategy), HttpStatusCode.Conflict);

        Assert.Equal(user, await client.GetFromJsonAsync<User>($"/users/{user.Id}"));
        Assert.Equal(HttpStatusCode.OK, (await other.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(0, await api.MetricAsync("write_behind_queue_length"));
    }

    [Fact]
    public async Task A_write_that_is_queued_never_changes_the_address()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        var value = JsonSerializer.SerializeToUtf8Bytes(
            new UserChange("old@example.org", "old@example.org", "Behind", user.UpdatedAt), UserJson.Default.UserChange);

        await api.Services.GetRequiredKeyedService<WriteBehind>("users").AcceptAsync(
            $"{user.Id}", new(1), null, value, CancellationToken.None);

        var letters = default(JsonElement);
        await Eventually.TrueAsync(
            async () => (letters = await (await admin.GetAsync("/cache/dead-letters")).JsonAsync()).GetArrayLength() == 1);
        Assert.Equal("The user's e-mail address has changed.", letters[0].GetProperty("reason").GetString());
        Assert.Equal(user.Email, await api.SqlAsync<string>($"SELECT email FROM users WHERE id = '{user.Id}'"));

        // A retry would bring the old address back, so it is refused.
        Assert.Equal(HttpStatusCode.Conflict,
            (await admin.PostAsync($"/cache/dead-letters/{letters[0].GetProperty("id")}/retry", null)).StatusCode);
        Assert.Equal(user.Email, await api.SqlAsync<string>($"SELECT email FROM users WHERE id = '{user.Id}'"));
    }

    [Fact]
    public async Task Changes_of_an_address_count_as_registrations()
    {
        await using var api = await ApiNode.StartAsync(
            servers,
            new()
            {
                ["RateLimits:Enabled"] = "true",
                ["RateLimits:Policies:registration:Limit"] = "4",
                ["RateLimits:Policies:registration:Window"] = "1.00:00:00",
            });
        var (user, owner) = (await api.CreateUserAsync(), await api.CreateUserAsync());
        using var client = await api.LogInAsync(user.Email);

        for (var change = 0; change < 3; change++)
        {
            Assert.Equal(HttpStatusCode.OK,
                (await client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = $"{change}" })).StatusCode);
        }

        Assert.Equal(HttpStatusCode.Conflict, (await PutAsync(client, user, owner.Email)).StatusCode);
        var changed = await PutAsync(client, user, "new@example.org");
        Assert.Equal(HttpStatusCode.OK, changed.StatusCode);
        Assert.Contains("\"registration\";r=0", changed.Header("RateLimit"), StringComparison.Ordinal);
        Assert.Contains("\"default\";r=", changed.Header("RateLimit"), StringComparison.Ordinal);

        foreach (var address in new[] { owner.Email, "free@example.org" })
        {
            var denied = await PutAsync(client, user, address);
            var problem = await UserContractTests.AssertProblemAsync(denied, HttpStatusCode.TooManyRequests);
            Assert.Equal("registration", Assert.Single(problem.GetProperty("violated-policies").EnumerateArray()).GetString());
            Assert.NotEmpty(denied.Header("Retry-After"));
        }

        Assert.Equal(HttpStatusCode.TooManyRequests, (await api.Anonymous.PostAsJsonAsync("/users", new { email = "no" })).StatusCode);
        Assert.Equal("new@example.org", await api.SqlAsync<string>($"SELECT email FROM users WHERE id = '{user.Id}'"));
    }

    [Fact]
    public async Task One_user_changes_an_address_only_so_often_from_all_networks()
    {
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["RateLimits:Enabled"] = "true",
            ["RateLimits:Policies:email-change:Limit"] = "2",
            ["RateLimits:Policies:email-change:Window"] = "1.00:00:00",
            ["Network:KnownProxies:0"] = "127.0.0.1",
        });
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);
        var statuses = new List<int>();
        for (var number = 1; number <= 3; number++)
        {
            client.DefaultRequestHeaders.Remove("X-Forwarded-For");
            client.DefaultRequestHeaders.Add("X-Forwarded-For", $"203.0.{number}.1");
            statuses.Add((int)(await PutAsync(client, user, $"address-{number}@example.org")).StatusCode);
        }

        Assert.Equal([200, 200, 429], statuses);
    }

    [Theory]
    [InlineData("PUT")]
    [InlineData("DELETE")]
    public async Task A_session_whose_password_was_given_long_ago_needs_it_again(string method)
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);
        var next = $"{Guid.NewGuid():N}@example.org";
        await AgeAsync(servers, api, user, TimeSpan.FromMinutes(11));

        async Task<HttpResponseMessage> SendAsync(string? currentPassword = null)
        {
            using var request = new HttpRequestMessage(new(method), $"/users/{user.Id}");
            request.Content = method == "PUT" ? JsonContent.Create(new { email = next, displayName = "Ada", currentPassword })
                : currentPassword is null ? null : JsonContent.Create(new { currentPassword });
            return await client.SendAsync(request);
        }

        var problem = await UserContractTests.AssertProblemAsync(await SendAsync(), HttpStatusCode.Forbidden);
        Assert.Equal("reauthentication-required", problem.GetProperty("type").GetString());
        var wrong = await UserContractTests.AssertProblemAsync(await SendAsync("not the password"), HttpStatusCode.Forbidden);
        Assert.NotEqual("reauthentication-required", wrong.GetProperty("type").GetString());
        Assert.Equal(HttpStatusCode.OK,
            (await client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = "Ada King" })).StatusCode);
        Assert.Equal(1, await api.SqlAsync<long>($"SELECT count(*) FROM users WHERE id = '{user.Id}' AND email = '{user.Email}'"));

        Assert.True((await SendAsync(ApiNode.Password)).IsSuccessStatusCode);
        Assert.Equal(0, await api.SqlAsync<long>($"SELECT count(*) FROM users WHERE id = '{user.Id}' AND email = '{user.Email}'"));
    }

    [Theory]
    [InlineData("bearer")]
    [InlineData("cookie")]
    public async Task The_password_given_once_more_makes_a_session_recent(string transport)
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var login = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password, transport });
        using var client = api.CreateBareClient();
        if (transport == "bearer")
        {
            client.DefaultRequestHeaders.Authorization = new("Bearer", (await login.JsonAsync()).GetProperty("token").GetString());
        }
        else
        {
            client.DefaultRequestHeaders.Add("Cookie", login.Header("Set-Cookie").Split(';')[0]);
        }

        var next = $"{Guid.NewGuid():N}@example.org";
        await AgeAsync(servers, api, user, TimeSpan.FromMinutes(11));
        Assert.Equal(HttpStatusCode.Forbidden, (await PutAsync(client, user, next)).StatusCode);

        var wrong = await client.PostAsJsonAsync("/sessions/current/reauthentication", new { currentPassword = "not the password" });
        await UserContractTests.AssertProblemAsync(wrong, HttpStatusCode.Forbidden);
        Assert.Equal(HttpStatusCode.Forbidden, (await PutAsync(client, user, next)).StatusCode);

        var right = await client.PostAsJsonAsync("/sessions/current/reauthentication", new { currentPassword = ApiNode.Password });
        Assert.Equal(HttpStatusCode.NoContent, right.StatusCode);
        Assert.Equal("no-store", right.Header("Cache-Control"));
        Assert.Equal(HttpStatusCode.OK, (await PutAsync(client, user, next)).StatusCode);
    }

    private static Task<HttpResponseMessage> PutAsync(HttpClient client, User user, string email, string strategy = "write-through") =>
        client.PutAsJsonAsync($"/users/{user.Id}?strategy={strategy}", new { email, displayName = user.DisplayName });

    /// <summary>Makes it longer ago that the password was given in the user's sessions.</summary>
    internal static async Task AgeAsync(TestServers servers, ApiNode api, User user, TimeSpan age)
    {
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var pattern = $"{api.KeyPrefix}:sessions:{{{user.Id}}}:????????????????????????????????*";
        var key = Assert.Single(redis.GetServers().SelectMany(server => server.Keys(pattern: pattern)));
        var created = (long)await redis.GetDatabase().HashGetAsync(key, "created");
        await redis.GetDatabase().HashSetAsync(key, "created", created - (long)age.TotalMilliseconds);
        await redis.GetDatabase().HashDeleteAsync(key, "authenticated");
        api.Services.GetRequiredService<SessionMemory>().Clear();
    }
}
