using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Npgsql;

namespace CachingApi.Tests.Storage;

public sealed class MigrationTests(TestServers servers)
{
    [Fact]
    public async Task Six_that_start_at_once_on_an_empty_database_all_come_up()
    {
        var database = await servers.CreateDatabaseAsync(empty: true);
        var prefix = $"test-{Guid.NewGuid():N}";
        var settings = new Dictionary<string, string>
        {
            ["ConnectionStrings:Postgres"] = database,
            ["Redis:KeyPrefix"] = prefix,
            ["Database:SampleData"] = "true",
        };

        var nodes = await Task.WhenAll(Enumerable.Range(0, 6).Select(_ => Task.Run(() => ApiNode.StartAsync(servers, settings))));

        foreach (var node in nodes)
        {
            using var admin = await node.AdminAsync();
            Assert.Equal(
                100,
                (await System.Net.Http.Json.HttpClientJsonExtensions.GetFromJsonAsync<UserPage>(admin, "/users?limit=100"))!.Items.Count);
        }

        await using (var connection = new NpgsqlConnection(database))
        {
            await connection.OpenAsync();
            await using var count = new NpgsqlCommand("SELECT count(*) FROM users", connection);
            Assert.Equal(1001L, await count.ExecuteScalarAsync());
            await using var scripts = new NpgsqlCommand(
                "SELECT string_agg(scriptname, ' ' ORDER BY schemaversionsid) FROM schemaversions", connection);
            Assert.Equal(
                "db/001_users.sql db/002_change_capture.sql db/003_write_behind.sql db/004_configured_administrator.sql "
                + "db/005_version_grows.sql db/sample-data.sql",
                await scripts.ExecuteScalarAsync());
        }

        foreach (var node in nodes)
        {
            await node.DisposeAsync();
        }

        await servers.DropDatabaseAsync(database);
    }

    [Fact]
    public async Task A_version_that_is_set_back_in_sql_still_grows()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();

        await api.SqlAsync($"UPDATE users SET version = 5 WHERE id = '{user.Id}'");
        await api.SqlAsync($"UPDATE users SET version = 1 WHERE id = '{user.Id}'");

        Assert.Equal(6, await api.SqlAsync<long>($"SELECT version FROM users WHERE id = '{user.Id}'"));
    }
}
