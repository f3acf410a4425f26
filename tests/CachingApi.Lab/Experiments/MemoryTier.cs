using System.Diagnostics;
using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// A memory tier answers a hot key without a round trip. Its price is a copy in each instance, which a writer must reach.
/// </summary>
internal static class MemoryTier
{
    private const int Callers = 32;
    private const int Rounds = 5;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(5);
    private static readonly TimeSpan Round = TimeSpan.FromSeconds(0.4);
    private static readonly TimeSpan Watched = TimeSpan.FromSeconds(5);

    public static Experiment Experiment { get; } = new("memory-tier", "The memory tier, on and off, for a hot key", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var on = new Setup { Ttl = TimeSpan.FromMinutes(1), MemoryTtl = TimeSpan.FromSeconds(1) };
        var off = on with { MemoryTtl = TimeSpan.Zero };
        (string Name, Contender Contender, Setup Setup)[] contenders =
        [
            (Contender.Without.Name, Contender.Without, off),
            .. Contender.All.Skip(1).SelectMany(contender => new[]
            {
                ($"{contender.Name}: Redis only", contender, off),
                ($"{contender.Name}: memory", contender, on),
            }),
        ];
        var runs = await Task.WhenAll(contenders.Select(async own => new Run(
            own.Name, own.Contender, await lab.StartAsync(own.Contender, own.Setup, instances: 2, orders: 1, LoadTime, cancel))));

        // In turns, so that a busy moment of the machine does not concern one contender alone.
        for (var round = 0; round < Rounds; round++)
        {
            Lab.Say($"round {round + 1} of {Rounds}");
            foreach (var run in runs)
            {
                run.Rounds.Add(await PerSecondAsync(() => run.Service.Nodes[1].GetAsync(run.Service.Ids[0], cancel)));
            }
        }

        await Task.WhenAll(runs.Select(async run => run.SeenAfter = await SeenAfterAsync(run.Service, cancel)));
        await Task.WhenAll(runs.Select(run => run.Service.DisposeAsync().AsTask()));

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
                {Callers} callers read one order as fast as they can for {Rounds} rounds of {Text.Of(Round)}; then it is changed through
                another instance, and read until the change is seen.
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
            Settings = [.. runs.Select(run => (run.Name, run.Service.Settings))],
        };
    }

    private static ScottPlot.Color Colour(Run run) => Theme.Of(run.Contender.Name).Colour;

    private static async Task<double> PerSecondAsync(Func<Task> read)
    {
        var (start, reads) = (Stopwatch.GetTimestamp(), 0L);
        await Task.WhenAll(Enumerable.Range(0, Callers).Select(_ => Task.Run(async () =>
        {
            var own = 0L;
            for (; Stopwatch.GetElapsedTime(start) < Round; own++)
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

    private sealed record Run(string Name, Contender Contender, Service Service)
    {
        public List<double> Rounds { get; } = [];

        public double PerSecond => Rounds.Percentile(0.5);

        public double SeenAfter { get; set; }
    }
}
