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

namespace CachingApi.Tests.Sessions;

public sealed class PasswordTests(TestServers servers)
{
    private const string Next = "dew on the moss";

    [Fact]
    public async Task A_changed_password_ends_the_other_sessions_and_the_old_password()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var here = await api.LogInAsync(user.Email);
        using var there = await api.LogInAsync(user.Email);

        Assert.Equal(HttpStatusCode.NoContent, (await ChangeAsync(here, user, ApiNode.Password, Next)).StatusCode);

        Assert.Equal(HttpStatusCode.OK, (await here.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await there.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, user.Email, ApiNode.Password)).StatusCode);
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, user.Email, Next)).StatusCode);

        // No visible property of the user has changed.
        var shown = await here.GetAsync($"/users/{user.Id}");
        Assert.Equal("\"v1\"", shown.ETag().ToString());
        Assert.Equal(user.UpdatedAt, (await shown.Content.ReadFromJsonAsync<User>())!.UpdatedAt);
    }

    [Fact]
    public async Task A_session_by_cookie_goes_on_under_a_new_cookie()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var login = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password });
        using var before = WithCookie(api, login);

        var changed = await ChangeAsync(before, user, ApiNode.Password, Next);
        Assert.Equal(HttpStatusCode.NoContent, changed.StatusCode);
        Assert.Matches("^__Host-session=[A-Za-z0-9_-]{64}; path=/; secure; samesite=lax; httponly$", changed.Header("Set-Cookie"));
        using var after = WithCookie(api, changed);

        Assert.Equal(HttpStatusCode.Unauthorized, (await before.GetAsync("/sessions/current")).StatusCode);
        var current = await after.GetAsync("/sessions/current");
        Assert.Equal((await login.JsonAsync()).GetProperty("id").GetGuid(), (await current.JsonAsync()).GetProperty("id").GetGuid());
        Assert.Single((await (await after.GetAsync("/sessions")).JsonAsync()).EnumerateArray());
        Assert.Equal(HttpStatusCode.NoContent, (await after.DeleteAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await after.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task A_wrong_current_password_changes_nothing()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);

        await UserContractTests.AssertProblemAsync(await ChangeAsync(client, user, "not the password", Next), HttpStatusCode.Forbidden);

        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, user.Email, ApiNode.Password)).StatusCode);
    }

    [Theory]
    [InlineData("1234567", false)]
    [InlineData("password", false)]
    [InlineData("PassWord1", false)]
    [InlineData("qwertyuiop", false)]
    [InlineData("dew on the m", true)]
    [InlineData("dew on the ", false)]
    [InlineData("qwertyuiop123", false)]
    [InlineData("Summer2026!!", false)]
    [InlineData("!1November2026", false)]
    [InlineData("aaaaaaaaaaaaaaaa", false)]
    [InlineData("abcabcabcabcabc", false)]
    [InlineData("Ada Lovelace 1815", false)]
    [InlineData("lovelace2026!", false)]
    [InlineData("abcdefghijkl", false)]
    [InlineData("Zyxwvutsrqpo", false)]
    [InlineData("qwertzuiop123456", false)]
    [InlineData("a1b2a1b2a1b2", false)]
    [InlineData("xkqzmwxkqzmw", false)]
    [InlineData("monkey-20261", false)]
    [InlineData("passwordPassword", false)]
    [InlineData("Sunshine1!Sunshine1!", false)]
    [InlineData("trustno1TrustNo1", false)]
    [InlineData("n\u0303a\u0308e\u0301o\u0302u\u0301i\u0301", false)] // six characters
    [InlineData("\U0001f600\U0001f601\U0001f602\U0001f603\U0001f604\U0001f605", false)] // six as well
    [InlineData("\U0001f600\U0001f340\U0001f602\U0001f680\U0001f604\U0001f305\U0001f347\U0001f412\U0001f525\U0001f697xy", true)]
    [InlineData("a hijacked nopal", true)]
    [InlineData("Lovelace wrote the first program", true)]
    public async Task A_short_or_common_password_is_refused(string password, bool accepted)
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);

        foreach (var (answer, field, status) in new[]
        {
            (await ChangeAsync(client, user, ApiNode.Password, password), "newPassword", HttpStatusCode.NoContent),
            (await api.Anonymous.PostAsJsonAsync("/users", new { email = Address(), displayName = "Ada Lovelace", password }),
                "password", HttpStatusCode.Created),
        })
        {
            if (accepted)
            {
                Assert.Equal(status, answer.StatusCode);
            }
            else
            {
                var problem = await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.BadRequest);
                Assert.NotEmpty(problem.GetProperty("errors").GetProperty(field).EnumerateArray());
            }
        }
    }

    [Fact]
    public async Task After_some_wrong_passwords_each_attempt_waits_and_a_right_one_ends_that()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var owner = await api.LogInAsync(user.Email);

        // The answers for an address without an account are the same.
        foreach (var email in new[] { user.Email, "nobody@example.org" })
        {
            for (var failure = 0; failure < LoginBackoff.FreeFailures; failure++)
            {
                Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, email.ToUpperInvariant(), "not the password")).StatusCode);
            }

            Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, email, "not the password")).StatusCode);
            var delayed = await LogInAsync(api, email, ApiNode.Password);
            await UserContractTests.AssertProblemAsync(delayed, HttpStatusCode.TooManyRequests);
            Assert.Equal("1", delayed.Header("Retry-After"));
        }

        // A live session goes on, and its attempts to change the password count separately.
        Assert.Equal(HttpStatusCode.OK, (await owner.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await ChangeAsync(owner, user, ApiNode.Password, Next)).StatusCode);

        // The wait is twice as long after the next failure, and there is none after a success.
        await Eventually.TrueAsync(
            async () => (await LogInAsync(api, user.Email, "not the password")).StatusCode is HttpStatusCode.Unauthorized);
        Assert.Equal("2", (await LogInAsync(api, user.Email, "not the password")).Header("Retry-After"));
        await Eventually.TrueAsync(async () => (await LogInAsync(api, user.Email, Next)).StatusCode is HttpStatusCode.Created);
        for (var failure = 0; failure < LoginBackoff.FreeFailures; failure++)
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, user.Email, "not the password")).StatusCode);
        }

        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, user.Email, Next)).StatusCode);
        Assert.DoesNotContain(await api.KeysAsync(), key => key.Contains('@', StringComparison.Ordinal));
    }

    [Fact]
    public async Task Attempts_at_the_same_time_count_too()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();

        var answers = await Task.WhenAll(Enumerable.Range(0, 50).Select(_ => LogInAsync(api, user.Email, "not the password")));

        // At most one more than the free attempts, and one for each second that this has taken.
        var tried = answers.Count(answer => answer.StatusCode is HttpStatusCode.Unauthorized);
        Assert.InRange(tried, LoginBackoff.FreeFailures, LoginBackoff.FreeFailures + 4);
        Assert.Equal(50 - tried, answers.Count(answer => answer.StatusCode is HttpStatusCode.TooManyRequests));
    }

    [Theory]
    [InlineData("password")]
    [InlineData("email")]
    public async Task The_other_sessions_end_also_if_one_of_them_ends_the_caller_s_meanwhile(string change)
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var own = await api.LogInAsync(user.Email);
        using var thief = await api.LogInAsync(user.Email);
        var row = await RowLock.TakeAsync(api, user.Id);

        var changed = change == "password"
            ? ChangeAsync(own, user, ApiNode.Password, "dew on the moss")
            : own.PutAsJsonAsync($"/users/{user.Id}", new { email = Address(), displayName = "Ada" });
        await row.WaitedForAsync();
        Assert.Equal(HttpStatusCode.NoContent, (await thief.DeleteAsync("/sessions")).StatusCode);
        await row.DisposeAsync();

        Assert.True((await changed).IsSuccessStatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await thief.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await own.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task A_session_that_has_ended_ends_no_others()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var store = api.Services.GetRequiredService<SessionStore>();
        using var other = await api.LogInAsync(user.Email);
        var ended = SessionToken.New(user.Id);

        Assert.False(await store.EndOthersAsync(ended, ended, always: false, CancellationToken.None));
        Assert.Equal(HttpStatusCode.OK, (await other.GetAsync("/sessions/current")).StatusCode);
        Assert.False(await store.EndOthersAsync(ended, ended, always: true, CancellationToken.None));
        Assert.Equal(HttpStatusCode.Unauthorized, (await other.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task Sessions_that_were_ended_leave_nothing_of_the_user_in_redis()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var own = await api.LogInAsync(user.Email);
        using var other = await api.LogInAsync(user.Email);

        Assert.Equal(HttpStatusCode.NoContent, (await own.DeleteAsync($"/users/{user.Id}")).StatusCode);

        Assert.Equal(["revoked"], (await api.KeysAsync())
            .Where(key => key.StartsWith($"sessions:{{{user.Id}}}:", StringComparison.Ordinal)).Select(key => key.Split(':')[^1]));
    }

    [Fact]
    public void A_text_that_is_much_too_long_is_not_normalised()
    {
        // Normalisation would take seconds for this text, because its time grows with the square of the length.
        var text = $"a{new string('\u0300', 100_000)}{new string('\u0316', 100_000)}";
        var start = TimeProvider.System.GetTimestamp();

        Assert.NotNull(PasswordRules.Problem(text));
        Assert.False(new PasswordAttribute().IsValid(text));
        Assert.Null(Email.Composed(text));
        Assert.Equal(text, Email.Key(text));

        Assert.InRange(TimeProvider.System.GetElapsedTime(start), TimeSpan.Zero, TimeSpan.FromSeconds(10));
    }

    [Fact]
    public async Task A_hash_of_fewer_iterations_is_made_anew_at_login()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var old = new PasswordHasher<object>(Options.Create(new PasswordHasherOptions { IterationCount = 10 }))
            .HashPassword(new(), ApiNode.Password);
        await api.SqlAsync($"UPDATE users SET password_hash = '{old}' WHERE id = '{user.Id}'");

        using var client = await api.LogInAsync(user.Email);

        var hash = await api.SqlAsync<string>($"SELECT password_hash FROM users WHERE id = '{user.Id}'");
        var passwords = api.Services.GetRequiredService<Passwords>();
        Assert.NotEqual(old, hash);
        Assert.Equal(PasswordVerificationResult.Success,
            await passwords.CheckAsync(hash, ApiNode.Password, preferred: false, "", CancellationToken.None));
        Assert.Equal(1, await api.SqlAsync<long>($"SELECT version FROM users WHERE id = '{user.Id}'"));
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task A_password_is_the_same_however_its_characters_are_composed()
    {
        var api = await servers.SharedApiAsync();
        var composed = "dew on the mo\u00f6rs";
        var decomposed = "dew on the moo\u0308rs";
        var email = Address();
        var created = await api.Anonymous.PostAsJsonAsync("/users", new { email, displayName = "Ada", password = decomposed });
        Assert.Equal(HttpStatusCode.Created, created.StatusCode);

        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, email, composed)).StatusCode);
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, email, decomposed)).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, email, "dew on the moors")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await LogInAsync(api, email, "dew on the moors\ufffe")).StatusCode);

        // A hash from before passwords were normalised still matches once, and is replaced.
        var old = new PasswordHasher<object>(Options.Create(new PasswordHasherOptions { IterationCount = 1000 }))
            .HashPassword(new(), decomposed);
        await api.SqlAsync($"UPDATE users SET password_hash = '{old}' WHERE email_key = '{email}'");
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, email, decomposed)).StatusCode);
        Assert.Equal(HttpStatusCode.Created, (await LogInAsync(api, email, composed)).StatusCode);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("not base64!")]
    [InlineData("AQAAAAIAAAPoAAAAEA==")]
    public async Task A_hash_that_matches_nothing_costs_as_much_as_one_that_does(string? hash)
    {
        var passwords = new Passwords(Options.Create(new PasswordHasherOptions { IterationCount = 1_000_000 }), TimeProvider.System);

        // The first attempt creates the hash that is used instead.
        Assert.Equal(
            PasswordVerificationResult.Failed, await passwords.CheckAsync(hash, "x", preferred: false, "", CancellationToken.None));
        var start = TimeProvider.System.GetTimestamp();
        Assert.Equal(
            PasswordVerificationResult.Failed, await passwords.CheckAsync(hash, "x", preferred: false, "", CancellationToken.None));

        // No machine is fast enough for a million iterations in this time.
        Assert.True(TimeProvider.System.GetElapsedTime(start) > TimeSpan.FromMilliseconds(20));
    }

    [Fact]
    public async Task A_login_that_was_under_way_when_the_password_was_changed_has_no_session_afterwards()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString });
        await using var slow = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:RedisState"] = proxy.ConnectionString }, nodeOf: api);
        var user = await api.CreateUserAsync();
        using var owner = await api.LogInAsync(user.Email);

        // Each of a login's calls to Redis takes so long that the password changes between two of them, in each round between two others.
        proxy.Delay = TimeSpan.FromMilliseconds(100);
        var password = ApiNode.Password;
        for (var round = 0; round < 12; round++)
        {
            var next = $"password number {round}";
            var login = LogInAsync(slow, user.Email, password);
            await Task.Delay(50 * round);
            Assert.Equal(HttpStatusCode.NoContent, (await ChangeAsync(owner, user, password, next)).StatusCode);

            var answer = await login;
            if (answer.StatusCode is HttpStatusCode.Created)
            {
                using var late = slow.CreateClient();
                late.DefaultRequestHeaders.Authorization = new("Bearer", (await answer.JsonAsync()).GetProperty("token").GetString());
                Assert.Equal(HttpStatusCode.Unauthorized, (await late.GetAsync("/sessions/current")).StatusCode);
            }

            password = next;
        }

        Assert.Single((await (await owner.GetAsync("/sessions")).JsonAsync()).EnumerateArray());
    }

    private static string Address() => $"{Guid.NewGuid():N}@example.org";

    private static Task<HttpResponseMessage> ChangeAsync(HttpClient client, User user, string current, string next) =>
        client.PutAsJsonAsync($"/users/{user.Id}/password", new { currentPassword = current, newPassword = next });

    private static Task<HttpResponseMessage> LogInAsync(ApiNode api, string email, string password) =>
        api.Anonymous.PostAsJsonAsync("/sessions", new { email, password, transport = "bearer" });

    private static HttpClient WithCookie(ApiNode api, HttpResponseMessage answer)
    {
        var client = api.CreateBareClient();
        client.DefaultRequestHeaders.Add("Cookie", answer.Header("Set-Cookie").Split(';')[0]);
        return client;
    }
}
