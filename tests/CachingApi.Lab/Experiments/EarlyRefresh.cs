using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// Without early refresh, the readers of a hot key wait for a load each time it expires. With it, one reader loads the entry in the
/// background shortly before it expires.
/// </summary>
internal static class EarlyRefresh
{
    private const int Readers = 40;
    private const double Interval = 0.1;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(300);
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(16);

    public static Experiment Experiment { get; } = new("early-refresh", "Early refresh", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var late = new Setup { Ttl = TimeSpan.FromSeconds(5) };
        var early = late with { EarlyRefresh = true };
        (string Name, Contender Contender, Setup Setup)[] contenders =
        [
            (Contender.Hybrid.Name, Contender.Hybrid, late),
            ($"{Contender.Ours.Name}, early refresh off", Contender.Ours, late),
            (Contender.Fusion.Name, Contender.Fusion, early),
            (Contender.Ours.Name, Contender.Ours, early),
        ];
        var panel = new Panel("Slowest read of each 100 ms: readers wait when a hot entry expires", "time (s)", "time of the read (ms)");
        var runs = await Task.WhenAll(contenders.Select(async own =>
        {
            await using var service = await lab.StartAsync(own.Contender, own.Setup, instances: 2, orders: 1, LoadTime, cancel);
            await Task.WhenAll(service.Nodes.Select(node => node.GetAsync(service.Ids[0], cancel)));
            service.Source.Forget();
            var load = await Load.ClosedAsync(
                Readers,
                TimeSpan.FromMilliseconds(20),
                Duration,
                lab.Seed,
                (reader, _) => service.Nodes[reader % 2].GetAsync(service.Ids[0], cancel),
                cancel);
            return (own.Name, Load: load, service.Source.Loads, service.Settings);
        }));
        foreach (var run in runs)
        {
            panel.Line(run.Name, run.Load.Every(Interval, times => times.Max()));
        }

        var waited = runs.ToDictionary(
            run => run.Name, run => run.Load.Samples.Count(sample => sample.Milliseconds > LoadTime.TotalMilliseconds / 2));
        var (on, off) = (runs[^1], runs[1]);
        return new()
        {
            Picture = new(panel) { Height = 380 },
            Done = Text.Fold($"""
                {Readers} readers in 2 instances read one order for {Text.Of(Duration)}; it is fresh for {Text.Of(late.Ttl)}, and a load
                takes {Text.Of(LoadTime)}.
                """),
            Seen = Text.Fold($"""
                The reads that waited for a load, and the loads, are
                {Text.Each(runs, run => run.Name, run => $"{Text.Number(waited[run.Name])} and {Text.Number(run.Loads)}")}.
                """),
            Lesson = waited[on.Name] < waited[off.Name]
                ? Text.Fold($"""
                    Early refresh takes the wait away from the readers; its price is that an entry is replaced before its time, which
                    means {Text.Count(on.Loads, "load")} in place of {Text.Number(off.Loads)} in this library.
                    """)
                : "In this run early refresh did not take the wait away from the readers.",
            Settings = [.. runs.Select(run => (run.Name, run.Settings))],
        };
    }
}
