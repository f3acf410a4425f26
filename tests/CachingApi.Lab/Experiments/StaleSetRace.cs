using System.Diagnostics;
using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// The race of a slow load with a writer: 1. a reader misses and reads version 1; 2. a writer commits version 2 and removes or replaces the
/// entry; 3. the reader stores version 1, which every later reader receives.
/// </summary>
internal static class StaleSetRace
{
    private const int Orders = 20;
    private const int Readers = 20;
    private const int Writers = 4;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(30);
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(12);

    public static Experiment Experiment { get; } = new("stale-set-race", "The stale-set race", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var setup = new Setup { Ttl = TimeSpan.FromSeconds(1) };
        var runs = new List<Run>();
        foreach (var update in new[] { Update.Invalidate, Update.Replace })
        {
            Lab.Say($"{update}");
            runs.AddRange(await Task.WhenAll(Contender.All.Select(async contender =>
            {
                await using var service = await lab.StartAsync(contender, setup, instances: 1, Orders, LoadTime, cancel);
                var (reads, stale) = await RaceAsync(service, update, lab.Seed, cancel);
                var action = update is Update.Invalidate ? "remove" : "replace";
                return new Run($"{contender.Name}: {action}", contender, reads, stale, service.Settings);
            })));
        }

        var panel = new Panel("Reads that return a version that had been replaced before they began", "share of the reads (%)", "");
        panel.Bars([.. runs.Select(run => (
            run.Name,
            Theme.Of(run.Contender.Name).Colour,
            100 * run.Share,
            $"{Text.Percent(run.Share)} of {Text.Number(run.Reads)}"))]);
        var ours = runs.Where(run => run.Contender == Contender.Ours).Sum(run => run.Stale);
        var others = runs.Where(run => run.Contender != Contender.Ours && run.Stale > 0).Select(run => run.Name).ToArray();
        return new()
        {
            Picture = new(panel) { Height = 380 },
            Done = Text.Fold($"""
                In one instance, {Readers} readers and {Writers} writers use {Orders} orders for {Text.Of(Duration)}; each writer
                commits and then removes or replaces the entry, a load takes {Text.Of(LoadTime)}, and the TTL is {Text.Of(setup.Ttl)}.
                """),
            Seen = $"The share of stale reads is {Text.Each(runs, run => run.Name, run => Text.Percent(run.Share))}.",
            Lesson = ours == 0
                ? Text.Fold($"""
                    This library returned no stale read, because it refuses a fill that is older than a write; its price is a version in
                    the row and a script in place of
                    `SET`{(others.Length > 0 ? "" : ", and in this run the others returned none either")}.
                    """)
                : $"In this run this library returned {Text.Count(ours, "stale read")}, which breaks its guarantee: report the seed.",
            Settings = [.. runs.Take(Contender.All.Count).Select(run => (run.Contender.Name, run.Settings))],
        };
    }

    private static async Task<(int Reads, int Stale)> RaceAsync(Service service, Update update, int seed, CancellationToken cancel)
    {
        var (journal, node, stale) = (new Journal(), service.Nodes[0], 0);
        var readers = Load.ClosedAsync(Readers, TimeSpan.FromMilliseconds(10), Duration, seed, async (_, random) =>
        {
            var (id, began) = (service.Ids[random.Next(Orders)], Stopwatch.GetTimestamp());
            var order = await node.GetAsync(id, cancel);
            if (journal.Staleness(id, order!.Version, began) > 0)
            {
                Interlocked.Increment(ref stale);
            }
        }, cancel);
        var writers = Load.ClosedAsync(Writers, TimeSpan.FromMilliseconds(40), Duration, seed + Readers, async (_, random) =>
        {
            var id = service.Ids[random.Next(Orders)];
            journal.Acknowledged(id, await node.WriteAsync(id, random.Next(1, 100), update, cancel));
        }, cancel);
        await writers;
        return ((await readers).Samples.Count, stale);
    }

    private sealed record Run(string Name, Contender Contender, int Reads, int Stale, string Settings)
    {
        public double Share => (double)Stale / Reads;
    }
}
