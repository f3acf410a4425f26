using System.Reflection;
using DbUp;
using DbUp.Engine;
using Microsoft.Extensions.Options;
using Npgsql;

namespace CachingApi.Storage;

/// <summary>What the service does with its database: the section <c>Database</c>.</summary>
internal sealed class DatabaseOptions
{
    /// <summary>Adds the users of <c>db/sample-data.sql</c>, once.</summary>
    public bool SampleData { get; init; }

    /// <summary>Follows the changes of the tables, whoever makes them, over logical replication.</summary>
    public bool ChangeCapture { get; init; } = true;

    /// <summary>How long the start waits for a database that does not answer yet.</summary>
    public TimeSpan StartTimeout { get; init; } = TimeSpan.FromSeconds(30);
}

/// <summary>
/// Brings the schema up to date before the first request is taken: the scripts of <c>db/</c>, in order, each once.
/// </summary>
/// <remarks>
/// DbUp does not lock: of several processes that start together on an empty database, all but one would fail. So each
/// first takes the same advisory lock, on a connection of its own, and the ones that waited find nothing left to do.
/// </remarks>
internal sealed partial class Migrations(
    NpgsqlDataSource postgres,
    IOptions<ConnectionStrings> connections,
    IOptions<DatabaseOptions> database,
    TimeProvider time,
    ILogger<Migrations> log) : IHostedService
{
    private const long LockKey = 0x43_61_63_68_65; // "Cache"

    public async Task StartAsync(CancellationToken cancellationToken)
    {
        await using var connection = await OpenAsync(cancellationToken);
        await using var command = connection.CreateCommand();
        command.CommandText = "SELECT pg_advisory_lock($1)";
        command.CommandTimeout = 0;
        command.Parameters.Add(new() { Value = LockKey });
        await command.ExecuteNonQueryAsync(cancellationToken);

        Apply(script => script.StartsWith("db/0", StringComparison.Ordinal));
        if (database.Value.SampleData)
        {
            Apply(script => script == "db/sample-data.sql");
        }

        // The lock belongs to the server's session, which a pooled connection would keep.
        command.CommandText = "SELECT pg_advisory_unlock($1)";
        await command.ExecuteNonQueryAsync(cancellationToken);
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    private void Apply(Func<string, bool> scripts)
    {
        var upgrade = DeployChanges.To.PostgresqlDatabase(connections.Value.Postgres)
            .WithScriptsEmbeddedInAssembly(Assembly.GetExecutingAssembly(), scripts)
            .WithTransactionPerScript()
            .WithVariablesDisabled()
            .LogToNowhere()
            .Build();

        var result = upgrade.PerformUpgrade();
        if (!result.Successful)
        {
            throw new InvalidOperationException($"The migration {result.ErrorScript?.Name} failed: {result.Error.Message}", result.Error);
        }

        foreach (SqlScript script in result.Scripts)
        {
            Log.Applied(log, script.Name);
        }
    }

    /// <summary>A database may start later than its service: that is waited for, up to a limit.</summary>
    private async Task<NpgsqlConnection> OpenAsync(CancellationToken cancel)
    {
        var start = time.GetTimestamp();
        while (true)
        {
            try
            {
                return await postgres.OpenConnectionAsync(cancel);
            }
            catch (NpgsqlException error) when (error.IsTransient && time.GetElapsedTime(start) < database.Value.StartTimeout)
            {
                Log.Waiting(log, error.Message);
                await Task.Delay(TimeSpan.FromMilliseconds(500), cancel);
            }
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "Applied {Script}")]
        public static partial void Applied(ILogger log, string script);

        [LoggerMessage(2, LogLevel.Warning, "Waiting for PostgreSQL: {Reason}")]
        public static partial void Waiting(ILogger log, string reason);
    }
}
