using System.Diagnostics;
using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// A memory tier answers a hot key without a round trip. Its price is a copy in each instance, which a writer must reach.
/// </summary>
internal static class MemoryTier
{
    private const int Callers = 32;

    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(1.5);
    private static readonly TimeSpan Watched = TimeSpan.FromSeconds(2.5);

    public static Experiment Experiment { get; } = new("memory-tier", "The memory tier, on and off, for a hot key", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var on = new Setup { Ttl = TimeSpan.FromMinutes(1), MemoryTtl = TimeSpan.FromSeconds(1) };
        var off = on with { MemoryTtl = TimeSpan.Zero };
        var runs = new List<Run>();
        foreach (var (contender, setup) in Contender.All.SelectMany(contender =>
            contender == Contender.Without ? [(contender, off)] : new[] { (contender, off), (contender, on) }))
        {
            var name = contender == Contender.Without ? contender.Name : $"{contender.Name}: {(setup.InMemory ? "memory" : "Redis only")}";
            Lab.Say(name);
            await using var service = await lab.StartAsync(contender, setup, instances: 2, orders: 1, TimeSpan.FromMilliseconds(5), cancel);
            runs.Add(new(
                name,
                contender,
                await PerSecondAsync(() => service.Nodes[1].GetAsync(service.Ids[0], cancel)),
                await SeenAfterAsync(service, cancel),
                service.Settings));
        }

        var speed = new Panel("Reads of one key", "reads per second", "") { IsLogX = true, Floor = 1000 };
        speed.Bars([.. runs.Select(run => (run.Name, Colour(run), run.PerSecond, Text.Rough(run.PerSecond)))]);
        var seen = new Panel("Another instance sees a write after, p99", "time (ms)", "") { IsLogX = true, HasRowLabels = false };
        seen.Bars([.. runs.Select(run => (run.Name, Colour(run), run.SeenAfter, Text.Milliseconds(run.SeenAfter)))]);
        var (ours, without) = (runs.Last(run => run.Contender == Contender.Ours), runs[0]);
        var fastest = runs.MaxBy(run => run.PerSecond)!;
        var slowest = runs.MaxBy(run => run.SeenAfter)!;
        return new()
        {
            Picture = new(speed, seen) { IsWide = true, Height = 380 },
            Done = Text.Fold($"""
                {Callers} callers read one order as fast as they can for {Text.Of(Duration)}; then it is changed through another
                instance, and read until the change is seen.
                """),
            Seen = Text.Fold($"""
                Reads per second are {Text.Each(runs, run => run.Name, run => Text.Rough(run.PerSecond))}; the change is seen after
                {Text.Each(runs, run => run.Name, run => Text.Milliseconds(run.SeenAfter))} (p99).
                """),
            Lesson = Text.Fold($"""
                Memory made this library {Text.Rough(ours.PerSecond / without.PerSecond)} times as fast as plain Redis, and
                {fastest.Name} was the fastest of all; a copy that no message reaches stays until it expires, and {slowest.Name} saw a
                change last.
                """),
            Settings = [.. runs.Select(run => (run.Name, run.Settings))],
        };
    }

    private static ScottPlot.Color Colour(Run run) => Theme.Of(run.Contender.Name).Colour;

    private static async Task<double> PerSecondAsync(Func<Task> read)
    {
        var (start, reads) = (Stopwatch.GetTimestamp(), 0L);
        await Task.WhenAll(Enumerable.Range(0, Callers).Select(_ => Task.Run(async () =>
        {
            var own = 0L;
            for (; Stopwatch.GetElapsedTime(start) < Duration; own++)
            {
                await read();
            }

            Interlocked.Add(ref reads, own);
        })));
        return reads / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static async Task<double> SeenAfterAsync(Service service, CancellationToken cancel)
    {
        var times = new List<double>();
        for (var start = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(start) < Watched;)
        {
            await service.Nodes[1].GetAsync(service.Ids[0], cancel);
            var version = await service.Nodes[0].WriteAsync(service.Ids[0], 2, Update.Replace, cancel);
            var written = Stopwatch.GetTimestamp();
            while ((await service.Nodes[1].GetAsync(service.Ids[0], cancel))!.Version < version)
            {
                await Task.Delay(1, cancel);
            }

            times.Add(Stopwatch.GetElapsedTime(written).TotalMilliseconds);
        }

        return times.Percentile(0.99);
    }

    private sealed record Run(string Name, Contender Contender, double PerSecond, double SeenAfter, string Settings);
}
