using System.Reflection;
using DbUp;
using DbUp.Engine;
using Microsoft.Extensions.Options;
using Npgsql;

namespace CachingApi.Storage;

/// <summary>The options of the service's database: the section <c>Database</c>.</summary>
internal sealed class DatabaseOptions
{
    /// <summary>Adds the users of <c>db/sample-data.sql</c>, once.</summary>
    public bool SampleData { get; init; }

    /// <summary>
    /// Migrates the schema at start. If <c>false</c>, the role needs no rights on the schema; another role runs the command <c>migrate</c>.
    /// </summary>
    public bool Migrate { get; init; } = true;

    /// <summary>Tracks the changes of the tables, by this service or by others, over logical replication.</summary>
    public bool ChangeCapture { get; init; } = true;

    /// <summary>How long the start waits for a database that does not answer yet.</summary>
    public TimeSpan StartTimeout { get; init; } = TimeSpan.FromSeconds(30);
}

/// <summary>
/// Migrates the schema before the first request: runs the scripts of <c>db/</c> in order, each once.
/// </summary>
/// <remarks>
/// DbUp does not lock: if several processes start together on an empty database, all but one would fail. So each process first takes the
/// same advisory lock, on its own connection. The processes that waited find the schema already migrated.
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
        if (!database.Value.Migrate)
        {
            Compare();
            return;
        }

        await using var command = connection.CreateCommand();
        command.CommandText = "SELECT pg_advisory_lock($1)";
        command.CommandTimeout = 0;
        command.Parameters.Add(new() { Value = LockKey });
        await command.ExecuteNonQueryAsync(cancellationToken);

        Apply(IsMigration);
        if (database.Value.SampleData)
        {
            Apply(script => script == "db/sample-data.sql");
        }

        await GrantAsync(connection, cancellationToken);

        // The lock belongs to the database session, which a pooled connection would keep open.
        command.CommandText = "SELECT pg_advisory_unlock($1)";
        await command.ExecuteNonQueryAsync(cancellationToken);
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    private static bool IsMigration(string script) => script.StartsWith("db/0", StringComparison.Ordinal);

    /// <exception cref="InvalidOperationException">The schema is not the one of this build.</exception>
    private void Compare()
    {
        if (Upgrade(IsMigration).GetScriptsToExecute() is { Count: > 0 } missing)
        {
            var names = string.Join(", ", missing.Select(script => script.Name));
            throw new InvalidOperationException($"The database lacks {names}: run the command migrate as the owner of the schema first.");
        }
    }

    private void Apply(Func<string, bool> scripts)
    {
        var result = Upgrade(scripts).PerformUpgrade();
        if (!result.Successful)
        {
            throw new InvalidOperationException($"The migration {result.ErrorScript?.Name} failed: {result.Error.Message}", result.Error);
        }

        foreach (SqlScript script in result.Scripts)
        {
            Log.Applied(log, script.Name);
        }
    }

    private UpgradeEngine Upgrade(Func<string, bool> scripts) => DeployChanges.To.PostgresqlDatabase(connections.Value.Postgres)
        .WithScriptsEmbeddedInAssembly(Assembly.GetExecutingAssembly(), scripts)
        .WithTransactionPerScript()
        .WithVariablesDisabled()
        .LogToNowhere()
        .Build();

    /// <summary>Runs <c>db/grants.sql</c> each time, because the role may have been created since the last run.</summary>
    private static async Task GrantAsync(NpgsqlConnection connection, CancellationToken cancel)
    {
        using var script = new StreamReader(Assembly.GetExecutingAssembly().GetManifestResourceStream("db/grants.sql")!);
        await using var command = new NpgsqlCommand(await script.ReadToEndAsync(cancel), connection);
        await command.ExecuteNonQueryAsync(cancel);
    }

    /// <summary>Waits up to a limit, because the database may start later than the service.</summary>
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
