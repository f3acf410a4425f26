using System.Diagnostics;
using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// Look-ups of entities that do not exist go through a cache that keeps only what exists. A negative entry stops them, if the same ids come
/// again, and must be removed when the entity is created.
/// </summary>
internal static class Penetration
{
    private const int Callers = 20;
    private const int RepeatedIds = 50;
    private const int Created = 10;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(5);
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(3);
    private static readonly TimeSpan Ttl = TimeSpan.FromSeconds(5);

    public static Experiment Experiment { get; } = new("penetration", "Cache penetration, with and without negative entries", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var setup = new Setup { Ttl = Ttl, NegativeTtl = Ttl };
        var runs = await Task.WhenAll(Contender.All.Select(contender => RunAsync(lab, contender, setup, cancel)));
        var loads = new Panel("Loads per 1,000 look-ups of missing orders", "loads", "");
        loads.Bars(
        [
            .. runs.Select(run => Bar(run, "same ids", run.Repeated)),
            .. runs.Select(run => Bar(run, "each id once", run.Different)),
        ]);
        var seen = new Panel("Elsewhere, a new order is found after", "time, at most (ms)", "")
        {
            IsLogX = true,
            LabelWidth = 100,
        };
        seen.Bars([.. runs.Select(run => (
            run.Contender.Name, Theme.Of(run.Contender.Name).Colour, run.FoundAfter, Text.Milliseconds(run.FoundAfter)))]);
        var (ours, without) = (runs.Single(run => run.Contender == Contender.Ours), runs[0]);
        var slowest = runs.MaxBy(run => run.FoundAfter)!;
        return new()
        {
            Picture = new(loads, seen) { IsWide = true, Height = 340 },
            Done = Text.Fold($"""
                {Callers} callers look up orders that do not exist, first {RepeatedIds} ids again and again, then each id once; then
                {Created} missing orders are created through one instance and looked up in another one.
                """),
            Seen = Text.Fold($"""
                Of 1,000 look-ups of the same ids,
                {Text.Each(runs, run => run.Contender.Name, run => Text.Number(Math.Round(run.Repeated, 1)))} load; a created order is
                found after {Text.Each(runs, run => run.Contender.Name, run => Text.Milliseconds(run.FoundAfter))} at most.
                """),
            Lesson = (ours.Repeated < without.Repeated
                    ? Text.Fold($"""
                    Negative entries stop look-ups of the same ids, and they do not stop an attack with ids that are all different
                    ({Text.Number(Math.Round(ours.Different))} loads of 1,000 with this library), which needs a rate limit
                    """)
                    : "In this run negative entries saved no loads")
                + (slowest.FoundAfter > Ttl.TotalMilliseconds / 2
                    ? $"; with {slowest.Contender.Name} they hid a created order from another instance until they expired."
                    : $"; each contender found a created order in another instance within {Text.Milliseconds(slowest.FoundAfter)}."),
            Settings = [.. runs.Select(run => (run.Contender.Name, run.Settings))],
        };

        static (string, ScottPlot.Color, double, string) Bar(Run run, string ids, double loads) =>
            ($"{run.Contender.Name}: {ids}", Theme.Of(run.Contender.Name).Colour, loads, Text.Number(Math.Round(loads, 1)));
    }

    private static async Task<Run> RunAsync(Lab lab, Contender contender, Setup setup, CancellationToken cancel)
    {
        await using var service = await lab.StartAsync(contender, setup, instances: 2, orders: 0, LoadTime, cancel);
        var repeated = await LoadsAsync((_, random) => $"missing-{random.Next(RepeatedIds)}");
        var next = 0;
        var different = await LoadsAsync((_, _) => $"once-{Interlocked.Increment(ref next)}");

        var prefix = $"late-{Guid.NewGuid():N}";
        var ids = Enumerable.Range(1, Created).Select(number => $"{prefix}-{number}").ToArray();
        await Task.WhenAll(ids.SelectMany(id => service.Nodes.Select(node => node.GetAsync(id, cancel))));
        await lab.CreateOrdersAsync(prefix, Created, cancel);
        var foundAfter = await Task.WhenAll(ids.Select(async id =>
        {
            var order = await service.Source.LoadAsync(id, cancel);
            await service.Nodes[0].CreatedAsync(order!, cancel);
            var start = Stopwatch.GetTimestamp();
            while (await service.Nodes[1].GetAsync(id, cancel) is null)
            {
                await Task.Delay(1, cancel);
            }

            return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        }));
        return new(contender, repeated, different, foundAfter.Max(), service.Settings);

        async Task<double> LoadsAsync(Func<int, Random, string> id)
        {
            service.Source.Forget();
            var load = await Load.ClosedAsync(
                Callers,
                TimeSpan.FromMilliseconds(20),
                Duration,
                lab.Seed,
                (caller, random) => service.Nodes[0].GetAsync(id(caller, random), cancel),
                cancel);
            return 1000.0 * service.Source.Loads / load.Samples.Count;
        }
    }

    private sealed record Run(Contender Contender, double Repeated, double Different, double FoundAfter, string Settings);
}
