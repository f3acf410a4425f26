using System.Diagnostics.Metrics;
using Npgsql;

namespace CachingApi.Storage;

/// <summary>
/// Whether PostgreSQL answers, checked every five seconds in the background. The metric has the name that postgres_exporter uses.
/// </summary>
internal sealed class PostgresUp : BackgroundService
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(1);

    private readonly NpgsqlDataSource _postgres;
    private volatile int[] _up = [];

    public PostgresUp(NpgsqlDataSource postgres, IMeterFactory meters)
    {
        _postgres = postgres;
        meters.Create("CachingApi.Postgres").CreateObservableGauge(
            "pg.up", () => _up.Select(up => new Measurement<int>(up)), description: "1 while PostgreSQL answers.");
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        // Real time, not the injected clock, because outages of PostgreSQL happen in real time.
        using var timer = new PeriodicTimer(Interval);
        do
        {
            _up = [await AnswersAsync(_postgres, stoppingToken) ? 1 : 0];
        }
        while (await timer.WaitForNextTickAsync(stoppingToken));
    }

    /// <summary>Whether PostgreSQL answers in time.</summary>
    /// <remarks>
    /// A frozen server does not confirm the cancellation of a command, so Npgsql may end the command only minutes later. It ends in the
    /// background.
    /// </remarks>
    public static async Task<bool> AnswersAsync(NpgsqlDataSource postgres, CancellationToken cancel)
    {
        try
        {
            await AskAsync(postgres, cancel).WaitAsync(Timeout, cancel);
            return true;
        }
        catch (Exception error) when (!cancel.IsCancellationRequested && error is NpgsqlException or TimeoutException)
        {
            return false;
        }
    }

    private static async Task AskAsync(NpgsqlDataSource postgres, CancellationToken cancel)
    {
        await using var command = postgres.CreateCommand("SELECT 1");
        await command.ExecuteScalarAsync(cancel);
    }
}
