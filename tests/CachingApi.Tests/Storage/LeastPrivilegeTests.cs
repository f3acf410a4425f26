using System.Net;
using System.Net.Http.Json;
using System.Text.RegularExpressions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Caching;
using CachingApi.Tests.Servers;
using Npgsql;
using StackExchange.Redis;

namespace CachingApi.Tests.Storage;

/// <summary>
/// The service works with the roles and users of the compose file, and these have only the rights that the service needs.
/// </summary>
public sealed partial class LeastPrivilegeTests(TestServers servers)
{
    private const string Secret = "a-password-of-a-test";

    [Fact]
    public async Task The_role_of_the_service_neither_owns_the_schema_nor_administers_the_server()
    {
        await using var postgres = await PostgresServer.StartAsync();
        var (owner, service) = await CreateRolesAsync(postgres);
        var (exitCode, log) = await ApiProcess.RunAsync(
            new() { ["ConnectionStrings:Postgres"] = owner, ["Database:SampleData"] = "true" }, "migrate");
        Assert.True(exitCode == 0, string.Join('\n', log));

        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Postgres"] = service,
            ["Database:Migrate"] = "false",
            ["Database:ChangeCapture"] = "true",
        });
        await Eventually.TrueAsync(async () => await api.MetricAsync("change_capture_follows") == 1, "change capture");
        using var admin = await api.AdminAsync();
        var user = await api.CreateUserAsync();
        Assert.Equal(HttpStatusCode.OK, (await admin.GetAsync($"/users/{user.Id}")).StatusCode);
        foreach (var strategy in new[] { "write-through", "invalidate", "write-behind" })
        {
            var changed = await admin.PutAsJsonAsync($"/users/{user.Id}?strategy={strategy}", new { user.Email, user.DisplayName });
            Assert.True(changed.IsSuccessStatusCode);
        }

        await Eventually.TrueAsync(async () => await api.MetricAsync("write_behind_queue_length") == 0, "the queue to be empty");
        Assert.Equal(HttpStatusCode.NoContent, (await admin.DeleteAsync($"/users/{user.Id}")).StatusCode);
        foreach (var sql in new[]
        {
            "DROP TABLE users", "ALTER TABLE users DISABLE TRIGGER ALL", "TRUNCATE users", "CREATE TABLE mine (id int)",
            "DELETE FROM schemaversions", "CREATE ROLE another", "DROP PUBLICATION cachingapi", "SELECT pg_read_file('/etc/passwd')",
            "COPY users TO PROGRAM 'true'", "CREATE SCHEMA mine", "SET ROLE cachingapi_owner",
        })
        {
            var error = await Assert.ThrowsAsync<PostgresException>(() => api.SqlAsync(sql));
            Assert.Equal(PostgresErrorCodes.InsufficientPrivilege, error.SqlState);
        }
    }

    [Fact]
    public async Task Without_the_migrations_the_service_does_not_start_and_names_the_command_to_run()
    {
        var (exitCode, log) = await ApiProcess.RunAsync(new()
        {
            ["ConnectionStrings:Postgres"] = await servers.CreateDatabaseAsync(empty: true),
            ["ConnectionStrings:Redis"] = servers.Redis,
            ["Database:Migrate"] = "false",
        });

        Assert.NotEqual(0, exitCode);
        Assert.Contains(log, line => Regex.IsMatch(line, "lacks db/001_users.sql.*: run the command migrate"));
    }

    [Theory]
    [InlineData("redis")]
    [InlineData("redis-state")]
    public async Task The_user_of_the_service_reaches_its_own_keys_only_and_administers_no_redis(string server)
    {
        await using var redis = await RedisServer.StartAsync("--appendonly", "yes", "--appendfsync", "always");
        await ApplyUsersAsync(redis, server);
        var connection = $"{redis.ConnectionString},user=cachingapi,password={Secret}";
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = connection,
            ["Redis:KeyPrefix"] = "cachingapi",
            ["Cache:Users:MemoryTtl"] = "00:01:00",
            ["RateLimits:Enabled"] = "true",
        });
        await MemoryTierTests.TrustedAsync(api);
        using var admin = await api.AdminAsync();
        var user = await api.CreateUserAsync();
        await admin.GetAsync($"/users/{user.Id}");
        var changed = await admin.PutAsJsonAsync($"/users/{user.Id}?strategy=write-behind", new { user.Email, user.DisplayName });
        Assert.Equal(HttpStatusCode.Accepted, changed.StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await admin.GetAsync($"/cache/entries?key=users:{user.Id}")).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await admin.DeleteAsync("/cache/namespaces/users")).StatusCode);
        Assert.Equal(HttpStatusCode.Accepted, (await admin.PostAsJsonAsync("/cache/warm", new { cache = "users", top = 1 })).StatusCode);
        await Eventually.TrueAsync(async () => await api.MetricAsync("redis_memory_used_bytes", ("role", "cache")) > 0, "INFO");
        Assert.Equal(1, await api.MetricAsync("redis_up", ("role", "cache")));
        Assert.DoesNotContain(api.Log, line => line.Contains("NOPERM", StringComparison.Ordinal));

        await using var client = await ConnectionMultiplexer.ConnectAsync($"{connection},allowAdmin=true");
        string[] commands =
            ["FLUSHALL", "CONFIG GET *", "KEYS *", "SHUTDOWN NOSAVE", "ACL LIST", "CLIENT LIST", "GET another", "PUBLISH another x"];
        foreach (var command in commands)
        {
            var words = command.Split(' ');
            var error = await Assert.ThrowsAsync<RedisServerException>(() => client.GetDatabase().ExecuteAsync(words[0], [.. words[1..]]));
            Assert.StartsWith("NOPERM", error.Message, StringComparison.Ordinal);
        }

        await using var anonymous = await ConnectionMultiplexer.ConnectAsync(
            $"{redis.ConnectionString},abortConnect=false,connectTimeout=500");
        Assert.False(anonymous.IsConnected);
    }

    /// <summary>Runs <c>db/roles.sql</c> (its variables are psql's); returns the connection strings of the owner and the service.</summary>
    private static async Task<(string Owner, string Service)> CreateRolesAsync(PostgresServer postgres)
    {
        var script = await File.ReadAllTextAsync(ComposeTests.Root("db/roles.sql"));
        script = string.Join('\n', script.Split('\n').Where(line => !line.StartsWith('\\')))
            .Replace(":'owner_password'", $"'{Secret}'", StringComparison.Ordinal)
            .Replace(":'service_password'", $"'{Secret}'", StringComparison.Ordinal)
            .Replace(":\"DBNAME\"", "shop", StringComparison.Ordinal);
        string As(string role, string database) => new NpgsqlConnectionStringBuilder(postgres.ConnectionString)
        {
            Database = database,
            Username = role,
            Password = role is "postgres" ? new NpgsqlConnectionStringBuilder(postgres.ConnectionString).Password : Secret,
            Pooling = role is not "postgres",
        }.ConnectionString;

        foreach (var (database, sql) in new[] { ("postgres", "CREATE DATABASE shop"), ("shop", script) })
        {
            await using var connection = new NpgsqlConnection(As("postgres", database));
            await connection.OpenAsync();
            await using var command = new NpgsqlCommand(sql, connection);
            await command.ExecuteNonQueryAsync();
        }

        return (As("cachingapi_owner", "shop"), As("cachingapi_service", "shop"));
    }

    /// <summary>Gives a Redis the users of a server of the compose file.</summary>
    private static async Task ApplyUsersAsync(RedisServer redis, string server)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        var users = ComposeTests.Command(server).Split("--user ")[1..];
        Assert.Contains(users, user => user.StartsWith("default off", StringComparison.Ordinal));
        foreach (var user in users.OrderBy(user => user.StartsWith("default ", StringComparison.Ordinal)))
        {
            var rules = Password().Replace(user, $">{Secret}").Split(' ', StringSplitOptions.RemoveEmptyEntries);
            await connection.GetDatabase().ExecuteAsync("ACL", ["SETUSER", .. rules]);
        }
    }

    [GeneratedRegex(@">\$\{\w+:-[^}]*\}")]
    private static partial Regex Password();
}
