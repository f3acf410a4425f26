using System.ComponentModel.DataAnnotations;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;

namespace CachingApi.Tests.Users;

/// <summary>The effect of the configuration on the administrator at each start. Another start is another node.</summary>
public sealed class AdminAccountTests(TestServers servers)
{
    private const string Own = "only its owner knows it", Other = "a sentence of the next one";

    [Fact]
    public async Task A_restart_leaves_the_password_to_its_owner_unless_it_is_to_be_reset()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var id = (await (await admin.GetAsync("/sessions/current")).JsonAsync()).GetProperty("userId").GetGuid();
        var changed = await admin.PutAsJsonAsync($"/users/{id}/password", new { currentPassword = ApiNode.Password, newPassword = Own });
        Assert.Equal(HttpStatusCode.NoContent, changed.StatusCode);

        await using var restarted = await ApiNode.StartAsync(servers, nodeOf: api);
        Assert.Equal(HttpStatusCode.Unauthorized, await LogInAsync(restarted, ApiNode.AdminEmail, ApiNode.Password));
        Assert.Equal(HttpStatusCode.Created, await LogInAsync(restarted, ApiNode.AdminEmail, Own));
        Assert.Equal(HttpStatusCode.OK, (await admin.GetAsync("/cache/stats")).StatusCode);

        await using var reset = await ApiNode.StartAsync(servers, new() { ["Admin:ResetPassword"] = "true" }, nodeOf: api);
        Assert.Equal(HttpStatusCode.Created, await LogInAsync(reset, ApiNode.AdminEmail, ApiNode.Password));
        Assert.Equal(HttpStatusCode.Unauthorized, await LogInAsync(reset, ApiNode.AdminEmail, Own));
        Assert.Equal(HttpStatusCode.Unauthorized, (await admin.GetAsync("/cache/stats")).StatusCode);

        // The setting may stay: an account that is as configured is not changed.
        using var again = await reset.AdminAsync();
        await using var next = await ApiNode.StartAsync(servers, new() { ["Admin:ResetPassword"] = "true" }, nodeOf: api);
        Assert.Equal(HttpStatusCode.OK, (await again.GetAsync("/cache/stats")).StatusCode);
    }

    [Fact]
    public async Task A_login_by_the_former_password_during_a_reset_has_no_session_afterwards()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var id = (await (await admin.GetAsync("/sessions/current")).JsonAsync()).GetProperty("userId").GetGuid();
        await admin.PutAsJsonAsync($"/users/{id}/password", new { currentPassword = ApiNode.Password, newPassword = Own });
        var row = await RowLock.TakeAsync(api, id);

        // 1. The reset has ended the sessions, and waits for the row; 2. a login succeeds by the password until now; 3. the reset goes on.
        var reset = Task.Run(() => ApiNode.StartAsync(servers, new() { ["Admin:ResetPassword"] = "true" }, nodeOf: api));
        await row.WaitedForAsync();
        using var late = await api.LogInAsync(ApiNode.AdminEmail, Own);
        Assert.Equal(HttpStatusCode.OK, (await late.GetAsync("/sessions/current")).StatusCode);
        await row.DisposeAsync();
        await using var node = await reset;

        Assert.Equal(HttpStatusCode.Unauthorized, (await late.GetAsync("/sessions/current")).StatusCode);
    }

    [Theory]
    [InlineData("other@example.com", 1)]
    [InlineData("", 0)]
    public async Task An_account_that_the_configuration_no_longer_names_is_not_an_administrator(string email, int administrators)
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var former = await api.AdminAsync();
        var id = (await (await former.GetAsync("/sessions/current")).JsonAsync()).GetProperty("userId").GetGuid();
        Assert.Equal(HttpStatusCode.OK, (await former.GetAsync($"/users/{id}")).StatusCode);
        // An administrator that an operator has appointed in SQL stays one.
        var byHand = await api.CreateUserAsync();
        await api.SqlAsync($"UPDATE users SET role = 'admin' WHERE id = '{byHand.Id}'");

        await using var restarted = await ApiNode.StartAsync(servers, new() { ["Admin:Email"] = email, ["Admin:Password"] = Other },
            nodeOf: api);

        Assert.Equal(HttpStatusCode.Unauthorized, (await former.GetAsync("/cache/stats")).StatusCode);
        using var ordinary = await restarted.LogInAsync(ApiNode.AdminEmail);
        Assert.Equal(HttpStatusCode.Forbidden, (await ordinary.GetAsync("/cache/stats")).StatusCode);
        Assert.Equal("user", (await ordinary.GetFromJsonAsync<User>($"/users/{id}"))!.Role);
        Assert.Equal(administrators,
            await api.SqlAsync<long>("SELECT count(*) FROM users WHERE role = 'admin' AND configured_as IS NOT NULL"));
        using var operators = await restarted.LogInAsync(byHand.Email);
        Assert.Equal(HttpStatusCode.OK, (await operators.GetAsync("/cache/stats")).StatusCode);
    }

    [Fact]
    public async Task An_administrator_may_take_another_address_and_a_restart_makes_no_second_one()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var id = (await (await admin.GetAsync("/sessions/current")).JsonAsync()).GetProperty("userId").GetGuid();
        Assert.Equal(HttpStatusCode.OK,
            (await admin.PutAsJsonAsync($"/users/{id}", new { email = "me@example.com", displayName = "Me" })).StatusCode);

        await using var restarted = await ApiNode.StartAsync(servers, nodeOf: api);

        Assert.Equal(HttpStatusCode.OK, (await admin.GetAsync("/cache/stats")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, await LogInAsync(restarted, ApiNode.AdminEmail, ApiNode.Password));
        Assert.Equal(1, await api.SqlAsync<long>("SELECT count(*) FROM users WHERE role = 'admin'"));

        await using var reset = await ApiNode.StartAsync(
            servers, new() { ["Admin:Password"] = Other, ["Admin:ResetPassword"] = "true" }, nodeOf: api);
        Assert.Equal(HttpStatusCode.Created, await LogInAsync(reset, "me@example.com", Other));
    }

    [Fact]
    public async Task An_account_that_exists_becomes_an_administrator_only_with_the_configured_password()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Admin:Email"] = "" });
        var early = await api.CreateUserAsync("Early bird");
        using var session = await api.LogInAsync(early.Email);

        await using var configured = await ApiNode.StartAsync(
            servers, new() { ["Admin:Email"] = early.Email, ["Admin:Password"] = Other, ["Serilog:MinimumLevel:Default"] = "Warning" },
            nodeOf: api);
        Assert.Equal(HttpStatusCode.Forbidden, (await session.GetAsync("/cache/stats")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, await LogInAsync(configured, early.Email, Other));
        Assert.Contains(configured.Log, line => line.Contains("Admin:ResetPassword", StringComparison.Ordinal)
            && line.Contains(early.Id.ToString(), StringComparison.Ordinal));

        await using var reset = await ApiNode.StartAsync(
            servers, new() { ["Admin:Email"] = early.Email, ["Admin:Password"] = Other, ["Admin:ResetPassword"] = "true" }, nodeOf: api);
        Assert.Equal(HttpStatusCode.Unauthorized, (await session.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, await LogInAsync(reset, early.Email, ApiNode.Password));
        using var admin = await reset.LogInAsync(early.Email, Other);
        Assert.Equal(HttpStatusCode.OK, (await admin.GetAsync("/cache/stats")).StatusCode);
    }

    [Theory]
    [InlineData("")]
    [InlineData("password1")]
    [InlineData("password1234")]
    [InlineData("Winter2026!!")]
    [InlineData("chief@example.com")]
    [InlineData("Administrator1")]
    [InlineData("a long and unusual sentence", true)]
    public void The_rules_of_passwords_hold_for_the_configured_one(string password, bool valid = false)
    {
        var problems = new List<ValidationResult>();
        var options = new AdminOptions { Email = "chief@example.com", Password = password };

        Assert.Equal(valid, Validator.TryValidateObject(options, new(options), problems, validateAllProperties: true));
        Assert.All(problems, problem => Assert.Equal(["Password"], problem.MemberNames));
    }

    private static async Task<HttpStatusCode> LogInAsync(ApiNode api, string email, string password) =>
        (await api.Anonymous.PostAsJsonAsync("/sessions", new { email, password, transport = "bearer" })).StatusCode;
}
