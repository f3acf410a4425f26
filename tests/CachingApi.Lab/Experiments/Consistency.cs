using System.Collections.Concurrent;
using System.Diagnostics;
using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// Four strategies between freshness and the latency of writes. A writer uses one instance, the readers another one: a read is stale for
/// as long as its version had been replaced when it began.
/// </summary>
internal static class Consistency
{
    private const int Orders = 10;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(10);
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(7);

    private static readonly (string Name, Update Update, TimeSpan Ttl)[] Strategies =
    [
        ("write-through, TTL 100 ms", Update.Replace, TimeSpan.FromMilliseconds(100)),
        ("cache-aside, TTL 2 s", Update.None, TimeSpan.FromSeconds(2)),
        ("TTL 500 ms and invalidation", Update.Invalidate, TimeSpan.FromMilliseconds(500)),
        ("write-behind, TTL 2 s", Update.Behind, TimeSpan.FromSeconds(2)),
    ];

    public static Experiment Experiment { get; } = new("consistency", "Four strategies: staleness against write latency", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var runs = new List<Run>();
        foreach (var strategy in Strategies)
        {
            Lab.Say(strategy.Name);
            var setup = new Setup { Ttl = strategy.Ttl, WriteBehind = strategy.Update is Update.Behind };
            runs.AddRange(await Task.WhenAll(Contender.All
                .Where(contender => !setup.WriteBehind || contender == Contender.Without || contender == Contender.Ours)
                .Select(contender => RunAsync(lab, contender, strategy.Name, strategy.Update, setup, cancel))));
        }

        var staleness = new Panel("Staleness elsewhere: p99 to maximum", "stale for (ms)", "") { IsLogX = true };
        var latency = new Panel("Time of a write: p50 to p99", "time (ms)", "")
        {
            IsLogX = true,
            Floor = 0.1,
            HasRowLabels = false,
            HasLegend = false,
        };
        var groups = runs.GroupBy(run => run.Strategy).ToArray();
        staleness.Ranges([.. groups.Select(group => (group.Key, Rows(group, run => run.Staleness, 0.99, 1)))]);
        latency.Ranges([.. groups.Select(group => (group.Key, Rows(group, run => run.Latency, 0.5, 0.99)))]);
        return new()
        {
            Picture = new(staleness, latency) { IsWide = true, Height = 420 },
            Done = Text.Fold($"""
                With each strategy, a writer changes {Orders} orders through one instance, and readers read them through another one,
                for {Text.Of(Duration)}.
                """),
            Seen = Text.Fold($"""
                Staleness (p99) and time of a write (median) are
                {string.Join("; ", groups.Select(group => $"for {group.Key}: {Figures(group)}"))}.
                """),
            Lesson = Lesson(groups),
            Settings =
            [
                .. runs.Where(run => run.Strategy == Strategies[0].Name).Select(
                    run => ($"{run.Contender.Name}, first strategy", run.Settings)),
            ],
        };
    }

    private static string Figures(IEnumerable<Run> runs) =>
        string.Join(", ", runs.Select(run => $"{Stale(run)} and {Time(run)} ({run.Contender.Name})"));

    private static string Stale(Run run) => Text.Milliseconds(run.Staleness.Percentile(0.99));

    private static string Time(Run run) => Text.Milliseconds(run.Latency.Percentile(0.5));

    private static string Lesson(IGrouping<string, Run>[] groups)
    {
        var ours = groups.Select(group => group.Single(run => run.Contender == Contender.Ours)).ToArray();
        var (stalest, fastest) = (
            ours.MaxBy(run => run.Staleness.Percentile(0.99))!, ours.MinBy(run => run.Latency.Percentile(0.5))!);
        return Text.Fold($"""
            With this library the stalest reads are those of
            {stalest.Strategy}{(stalest == ours[1] ? ", where only the TTL ends an entry" : "")}; the fastest writes are those of
            {fastest.Strategy}, and a write-through takes {Time(ours[0])} where a commit alone takes {Time(ours[1])}.
            """);
    }

    private static (string Name, double From, double To)[] Rows(
        IEnumerable<Run> runs, Func<Run, IReadOnlyCollection<double>> values, double from, double to) =>
        [.. runs.Select(run => (run.Contender.Name, values(run).Percentile(from), values(run).Percentile(to)))];

    private static async Task<Run> RunAsync(
        Lab lab, Contender contender, string strategy, Update update, Setup setup, CancellationToken cancel)
    {
        await using var service = await lab.StartAsync(contender, setup, instances: 2, Orders, LoadTime, cancel);
        var (journal, staleness) = (new Journal(), new ConcurrentBag<double>());
        var readers = Load.ClosedAsync(10, TimeSpan.FromMilliseconds(40), Duration, lab.Seed, async (_, random) =>
        {
            var (id, began) = (service.Ids[random.Next(Orders)], Stopwatch.GetTimestamp());
            var order = await service.Nodes[1].GetAsync(id, cancel);
            staleness.Add(journal.Staleness(id, order!.Version, began));
        }, cancel);
        var writer = await Load.ClosedAsync(1, TimeSpan.FromMilliseconds(40), Duration, lab.Seed + 10, async (_, random) =>
        {
            var id = service.Ids[random.Next(Orders)];
            journal.Acknowledged(id, await service.Nodes[0].WriteAsync(id, random.Next(1, 100), update, cancel));
        }, cancel);
        await readers;
        return new(contender, strategy, [.. staleness], [.. writer.Samples.Select(sample => sample.Milliseconds)], service.Settings);
    }

    private sealed record Run(Contender Contender, string Strategy, double[] Staleness, double[] Latency, string Settings);
}
