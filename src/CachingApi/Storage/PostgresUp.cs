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
            _up = [await AnswersAsync(stoppingToken) ? 1 : 0];
        }
        while (await timer.WaitForNextTickAsync(stoppingToken));
    }

    private async Task<bool> AnswersAsync(CancellationToken stop)
    {
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(stop);
        timeout.CancelAfter(Timeout);
        try
        {
            await using var command = _postgres.CreateCommand("SELECT 1");
            await command.ExecuteScalarAsync(timeout.Token);
            return true;
        }
        catch (Exception error) when (
            !stop.IsCancellationRequested && error is NpgsqlException or TimeoutException or OperationCanceledException)
        {
            return false;
        }
    }
}
