using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// Entries that are cached together, such as after a start or an import, also expire together, unless a random part of their lifetime
/// spreads the loads.
/// </summary>
internal static class MassExpiry
{
    private const int Orders = 300;
    private const double Interval = 0.1;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(10);
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(22);

    public static Experiment Experiment { get; } = new("mass-expiry", "Mass expiry, with and without jitter", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var fixedTtl = new Setup { Ttl = TimeSpan.FromSeconds(10) };
        var jitter = fixedTtl with { Jitter = 0.1 };
        (string Name, Contender Contender, Setup Setup)[] contenders =
        [
            ("without jitter", Contender.Without, fixedTtl),
            (Contender.Hybrid.Name, Contender.Hybrid, fixedTtl),
            (Contender.Fusion.Name, Contender.Fusion, jitter),
            (Contender.Ours.Name, Contender.Ours, jitter),
        ];
        var panel = new Panel(
            "Loads in each 100 ms: entries that were cached together expire together", "time since all entries were cached (s)", "loads");
        var runs = await Task.WhenAll(contenders.Select(async own =>
        {
            await using var service = await lab.StartAsync(own.Contender, own.Setup, instances: 1, Orders, LoadTime, cancel);
            await Task.WhenAll(service.Ids.Select(id => service.Nodes[0].GetAsync(id, cancel)));
            service.Source.Forget();
            var load = await Load.ClosedAsync(
                Orders,
                TimeSpan.FromMilliseconds(100),
                Duration,
                lab.Seed,
                (id, _) => service.Nodes[0].GetAsync(service.Ids[id], cancel),
                cancel);
            return (own.Name, Loads: load.CountEvery(Interval, service.Source.LoadTimes), service.Settings);
        }));
        foreach (var run in runs)
        {
            panel.Line(run.Name, run.Loads);
        }

        var peaks = runs.ToDictionary(run => run.Name, run => run.Loads.Max(interval => interval.Value));
        var (ours, plain) = (peaks[Contender.Ours.Name], peaks["without jitter"]);
        return new()
        {
            Picture = new(panel) { Height = 380 },
            Done = Text.Fold($"""
                {Orders} orders are cached at the same moment for {Text.Of(fixedTtl.Ttl)}, and each is then read every 100 ms; two
                contenders take up to {Text.Percent(jitter.Jitter)} of the lifetime at random.
                """),
            Seen = $"At most {Text.Each(peaks, own => own.Key, own => Text.Number(own.Value))} loads begin in the same 100 ms.",
            Lesson = ours < plain
                ? Text.Fold($"""
                    Jitter divides the peak by {Text.Number(Math.Round(plain / Math.Max(ours, 1), 1))} in this library and spreads the
                    loads further with each expiry; its price is that a lifetime is no longer exact, and the loads do not become fewer.
                    """)
                : "In this run jitter did not lower the peak.",
            Settings = [.. runs.Select(run => (run.Name, run.Settings))],
        };
    }
}
