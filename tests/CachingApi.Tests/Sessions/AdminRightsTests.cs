using System.Net;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.Time.Testing;
using Npgsql;

namespace CachingApi.Tests.Sessions;

/// <summary>Change data capture is off in these tests: the loss of the role does not depend on it.</summary>
public sealed class AdminRightsTests(TestServers servers)
{
    private readonly FakeTimeProvider _time = new(TimeProvider.System.GetUtcNow());

    [Theory]
    [InlineData("UPDATE users SET role = 'user'")]
    [InlineData("DELETE FROM users")]
    public async Task An_administrator_who_is_one_no_more_loses_the_rights_in_every_process_and_the_sessions(string sql)
    {
        await using var api = await ApiNode.StartAsync(servers,
            new() { ["Serilog:MinimumLevel:Override:CachingApi.Sessions"] = "Information" }, time: _time);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: api, time: _time);
        using var admin = await api.AdminAsync();
        using var elsewhere = other.CreateClient();
        elsewhere.DefaultRequestHeaders.Authorization = admin.DefaultRequestHeaders.Authorization;
        using var second = await other.AdminAsync();
        foreach (var client in new[] { admin, elsewhere, second })
        {
            Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/cache/stats")).StatusCode);
        }

        await api.SqlAsync(sql);
        _time.Advance(TimeSpan.FromMilliseconds(500));

        foreach (var client in new[] { admin, elsewhere, second })
        {
            await UserContractTests.AssertProblemAsync(await client.GetAsync("/users"), HttpStatusCode.Unauthorized);
            Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync("/sessions/current")).StatusCode);
        }

        Assert.DoesNotContain(await api.KeysAsync(), key => key.EndsWith(":index", StringComparison.Ordinal));
        Assert.Contains(api.Log, line => line.Contains("role-change", StringComparison.Ordinal));
    }

    [Fact]
    public async Task While_postgres_is_away_the_role_of_the_session_holds_and_afterwards_it_is_confirmed_again()
    {
        await using var postgres = await PostgresServer.StartDurableAsync();
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:Postgres"] = postgres.ConnectionString },
            time: _time);
        await using var other = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:Postgres"] = postgres.ConnectionString }, nodeOf: api, time: _time);
        using var admin = await api.AdminAsync();
        using var elsewhere = other.CreateClient();
        elsewhere.DefaultRequestHeaders.Authorization = admin.DefaultRequestHeaders.Authorization;

        await postgres.PauseAsync();
        _time.Advance(TimeSpan.FromMinutes(1));

        Assert.Equal(HttpStatusCode.OK, (await admin.GetAsync("/cache/stats")).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await elsewhere.GetAsync("/cache/stats")).StatusCode);

        await postgres.ResumeAsync();
        await api.SqlAsync("UPDATE users SET role = 'user'");

        // The first confirmation after the pause may still take longer than a request waits for it.
        await Eventually.TrueAsync(async () =>
        {
            _time.Advance(TimeSpan.FromMilliseconds(500));
            return (await elsewhere.GetAsync("/cache/stats")).StatusCode is HttpStatusCode.Unauthorized;
        });
        Assert.Equal(HttpStatusCode.Unauthorized, (await admin.GetAsync("/cache/stats")).StatusCode);
        NpgsqlConnection.ClearAllPools();
    }
}
