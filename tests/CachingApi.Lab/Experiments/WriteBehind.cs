using System.Collections.Concurrent;
using System.Diagnostics;
using CachingApi.Lab.Contenders;
using CachingApi.Redis;
using Dapper;
using Npgsql;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// Write-behind acknowledges a write before the database has it. So a burst does not slow the writers down, an outage of the database does
/// not stop them, and a queue in memory loses what it cannot write.
/// </summary>
internal static class WriteBehind
{
    private const double Interval = 0.25;

    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(11);
    private static readonly (double From, double To) Burst = (2, 4);
    private static readonly (double From, double To) Outage = (6, 9);

    public static Experiment Experiment { get; } = new(
        "write-behind", "Write-behind in a burst and in an outage of the database", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        (string Name, Contender Contender, Update Update)[] contenders =
        [
            ("without, commit first", Contender.Without, Update.Replace),
            ("without: queue in memory", Contender.Without, Update.Behind),
            (Contender.Ours.Name, Contender.Ours, Update.Behind),
        ];
        var latency = new Panel("Time of a write, p99 of each 250 ms; failed writes are left out", "time (s)", "p99 (ms)")
        {
            IsLogY = true,
            Until = Duration.TotalSeconds,
            HasLegend = false,
        };
        var backlog = new Panel("Acknowledged writes that PostgreSQL does not have", "time (s)", "writes")
        {
            Until = Duration.TotalSeconds,
        };
        var runs = new List<Run>();
        foreach (var (name, contender, update) in contenders)
        {
            Lab.Say(name);
            var run = await RunAsync(lab, name, contender, update, cancel);
            runs.Add(run);
            latency.Line(name, run.Latency);
            backlog.Line(name, run.Backlog);
        }

        foreach (var panel in new[] { latency, backlog })
        {
            panel.Span(Burst.From, Burst.To, "burst");
            panel.Span(Outage.From, Outage.To, "PostgreSQL is cut off");
        }

        var ours = runs[^1];
        return new()
        {
            Picture = new(latency, backlog),
            Done = Text.Fold($"""
                Writers change a different order each time, {Text.Number(Rate(0))} per second and {Text.Number(Rate(Burst.From))} per
                second in a burst of {Text.Number(Burst.To - Burst.From)} s; later PostgreSQL is cut off for
                {Text.Number(Outage.To - Outage.From)} s.
                """),
            Seen = Text.Fold($"""
                The writes that were acknowledged, that failed, and that were acknowledged and lost are
                {Text.Each(runs, run => run.Name, Writes)}.
                """),
            Lesson = ours.Lost == 0
                ? Text.Fold($"""
                    A queue in Redis keeps its writes through the
                    outage{(runs[1].Lost > 0 ? ", and the queue in memory lost those that it could not write" : "")}; the price is a row
                    that lags behind, by {Text.Count(ours.Backlog.Max(point => point.Value), "write")} at most here, and a second
                    durable server.
                    """)
                : $"In this run this library lost {Text.Count(ours.Lost, "write")}, which breaks its guarantee: report the seed.",
            Settings = [.. runs.Select(run => (run.Name, run.Settings))],
        };
    }

    private static string Writes(Run run) =>
        $"{Text.Number(run.Acknowledged)}, {Text.Number(run.Failed)} and {Text.Number(run.Lost)}";

    private static double Rate(double time) => time >= Burst.From && time < Burst.To ? 800 : 80;

    private static async Task<Run> RunAsync(Lab lab, string name, Contender contender, Update update, CancellationToken cancel)
    {
        await using var proxy = lab.NewDatabaseProxy();
        var orders = (int)(Duration.TotalSeconds * Rate(0) + (Burst.To - Burst.From) * Rate(Burst.From));
        var setup = new Setup { Ttl = TimeSpan.FromMinutes(10), WriteBehind = update is Update.Behind };
        await using var service = await lab.StartAsync(contender, setup, instances: 1, orders, TimeSpan.Zero, cancel, proxy);
        var node = service.Nodes[0];
        await Parallel.ForEachAsync(service.Ids, cancel, async (id, stop) => await node.GetAsync(id, stop));

        var (acknowledged, next) = (new ConcurrentBag<string>(), -1);
        using var ended = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        var backlog = new List<(double, double)>();
        var start = Stopwatch.GetTimestamp();
        var observer = ObserveAsync();
        var faults = FaultsAsync();
        var load = await Load.OpenAsync(Rate, Duration, async _ =>
        {
            var id = service.Ids[Interlocked.Increment(ref next) % orders];
            try
            {
                await node.WriteAsync(id, 2, update, cancel);
                acknowledged.Add(id);
            }
            catch (Exception error) when (error is NpgsqlException or UnavailableException)
            {
                throw new CallFailedException(error);
            }
        }, cancel);
        await faults;
        await DrainAsync();
        await ended.CancelAsync();
        await observer;
        var setting = update is not Update.Behind ? ""
            : contender == Contender.Ours ? ", write-behind"
            : $", a channel of {PlainNode.QueueCapacity}";
        return new(
            name,
            load.Every(Interval, times => times.Percentile(0.99)),
            backlog,
            acknowledged.Count,
            load.Failed,
            acknowledged.Except(await PersistedAsync()).Count(),
            service.Settings + setting);

        async Task FaultsAsync()
        {
            await Task.Delay(TimeSpan.FromSeconds(Outage.From), cancel);
            proxy.Cut();
            await Task.Delay(TimeSpan.FromSeconds(Outage.To - Outage.From), cancel);
            proxy.Mend();
        }

        async Task ObserveAsync()
        {
            while (!ended.IsCancellationRequested && Stopwatch.GetElapsedTime(start) < Duration)
            {
                var now = Stopwatch.GetElapsedTime(start).TotalSeconds;
                var persisted = await PersistedAsync();
                backlog.Add((now, Math.Max(0, acknowledged.Count - persisted.Length)));
                await Task.Delay(100, cancel);
            }
        }

        // Until the rows stop changing.
        async Task DrainAsync()
        {
            for (var (before, quiet) = (-1, 0); quiet < 10;)
            {
                await Task.Delay(200, cancel);
                var persisted = (await PersistedAsync()).Length;
                (before, quiet) = (persisted, persisted == before ? quiet + 1 : 0);
            }
        }

        async Task<string[]> PersistedAsync()
        {
            await using var connection = await lab.Postgres.OpenConnectionAsync(cancel);
            return [.. await connection.QueryAsync<string>(new CommandDefinition(
                "SELECT id FROM orders WHERE id = ANY (@ids) AND version > 1", new { ids = service.Ids }, cancellationToken: cancel))];
        }
    }

    private sealed record Run(
        string Name,
        IReadOnlyList<(double At, double Value)> Latency,
        IReadOnlyList<(double At, double Value)> Backlog,
        int Acknowledged,
        int Failed,
        int Lost,
        string Settings);
}
