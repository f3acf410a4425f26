using CachingApi.Storage;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;
using Npgsql;

[assembly: AssemblyFixture(typeof(TestServers))]

namespace CachingApi.Tests.Servers;

/// <summary>
/// The PostgreSQL and the <see cref="SharedRedis"/> that tests share; each test has its own database and key prefix. The PostgreSQL is the
/// one in CACHINGAPI_TEST_POSTGRES, else a container if a Docker engine answers, else a process.
/// </summary>
public sealed class TestServers : IAsyncLifetime
{
    private readonly string _template = $"cachingapi_template_{Guid.NewGuid():N}";
    private PostgresServer? _postgres;
    private readonly Lazy<Task<ApiNode>> _api;
    private SharedRedis _redis = null!;

    public TestServers() => _api = new(() => ApiNode.StartAsync(this));

    public string Postgres { get; private set; } = "";

    public string Redis => _redis.ConnectionString;

    public async ValueTask InitializeAsync()
    {
        Postgres = Environment.GetEnvironmentVariable("CACHINGAPI_TEST_POSTGRES")
            ?? (_postgres = await PostgresServer.StartAsync()).ConnectionString;
        _redis = await SharedRedis.StartAsync();
        await SqlAsync($"CREATE DATABASE {_template}");
        await MigrateAsync(ConnectionStringTo(_template));
        NpgsqlConnection.ClearAllPools();
    }

    public async ValueTask DisposeAsync()
    {
        if (_api.IsValueCreated)
        {
            await (await _api.Value).DisposeAsync();
        }

        NpgsqlConnection.ClearAllPools();
        await SqlAsync($"DROP DATABASE {_template}");
        NpgsqlConnection.ClearAllPools();
        await _redis.DisposeAsync();
        await (_postgres?.DisposeAsync() ?? default);
    }

    /// <summary>
    /// The node that tests share if they need no settings, and no data except their own. To start a node costs more than most of them.
    /// </summary>
    internal Task<ApiNode> SharedApiAsync() => _api.Value;

    /// <summary>A new database, with the schema or empty.</summary>
    internal async Task<string> CreateDatabaseAsync(bool empty = false)
    {
        var name = $"cachingapi_{Guid.NewGuid():N}";
        await SqlAsync(empty ? $"CREATE DATABASE {name}" : $"CREATE DATABASE {name} TEMPLATE {_template}");
        return ConnectionStringTo(name);
    }

    internal async Task DropDatabaseAsync(string connectionString)
    {
        await using (var pool = new NpgsqlConnection(connectionString))
        {
            NpgsqlConnection.ClearPool(pool);
        }

        await SqlAsync($"DROP DATABASE IF EXISTS {new NpgsqlConnectionStringBuilder(connectionString).Database} WITH (FORCE)");
    }

    private static async Task MigrateAsync(string connectionString)
    {
        await using var postgres = NpgsqlDataSource.Create(connectionString);
        var migrations = new Migrations(
            postgres,
            Options.Create(new ConnectionStrings { Postgres = connectionString }),
            Options.Create(new DatabaseOptions()),
            TimeProvider.System,
            NullLogger<Migrations>.Instance);
        await migrations.StartAsync(CancellationToken.None);
    }

    private string ConnectionStringTo(string database) =>
        new NpgsqlConnectionStringBuilder(Postgres) { Database = database }.ConnectionString;

    private async Task SqlAsync(string sql)
    {
        await using var connection = new NpgsqlConnection(Postgres);
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand(sql, connection);
        await command.ExecuteNonQueryAsync();
    }
}
