using System.Diagnostics;
using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// A longer TTL gives more hits. Without invalidation it also gives more stale reads; with invalidation, how many depends on how a writer
/// reaches the memory of other instances.
/// </summary>
internal static class TtlLength
{
    private const int Orders = 20;
    private const int Rate = 200;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(5);
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(6);
    private static readonly double[] Seconds = [0.25, 0.5, 1, 2, 4];

    public static Experiment Experiment { get; } = new("ttl-length", "The length of a TTL: hit ratio against staleness", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        (string Name, Contender Contender, Update Update)[] contenders =
        [
            ("without invalidation", Contender.Without, Update.None),
            (Contender.Hybrid.Name, Contender.Hybrid, Update.Invalidate),
            (Contender.Fusion.Name, Contender.Fusion, Update.Invalidate),
            (Contender.Ours.Name, Contender.Ours, Update.Invalidate),
        ];
        var panel = new Panel("Each point is a TTL; the best place is at the top left", "stale reads (%)", "hits (%)") { FitsY = true };
        var (longest, settings) = (new Dictionary<string, (double Stale, double Hits)>(), new List<(string, string)>());
        foreach (var (name, contender, update) in contenders)
        {
            Lab.Say(name);
            var points = await Task.WhenAll(Seconds.Select(ttl => RunAsync(
                lab, contender, new() { Ttl = TimeSpan.FromSeconds(ttl) }, update, cancel)));
            panel.Path(
                name,
                [
                    .. points.Zip(Seconds).Select(pair => (
                        100 * pair.First.Stale, 100 * pair.First.Hits, Text.Of(TimeSpan.FromSeconds(pair.Second)))),
                ]);
            longest[name] = (points[^1].Stale, points[^1].Hits);
            settings.Add((name, points[^1].Settings));
        }

        var (ours, plain) = (longest[Contender.Ours.Name], longest["without invalidation"]);
        return new()
        {
            Picture = new(panel) { Height = 460 },
            Done = Text.Fold($"""
                A writer changes one of {Orders} orders 8 times per second through one instance, and removes its entry except in the
                first case; {Rate} reads per second use another instance, for {Text.Of(Duration)} with each TTL.
                """),
            Seen = Text.Fold($"""
                With a TTL of {Text.Of(TimeSpan.FromSeconds(Seconds[^1]))}, hits and stale reads are
                {Text.Each(longest, own => own.Key, own => $"{Text.Percent(own.Value.Hits)} and {Text.Percent(own.Value.Stale)}")}.
                """),
            Lesson = ours.Stale < plain.Stale
                ? Text.Fold($"""
                    Invalidation that reaches every instance makes the TTL a bound for mistakes in place of the freshness; its price is
                    {(ours.Hits < plain.Hits ? "hits, because each write costs a load, and " : "")}a message to each instance.
                    """)
                : "In this run invalidation did not make the reads fresher.",
            Settings = settings,
        };
    }

    private static async Task<(double Stale, double Hits, string Settings)> RunAsync(
        Lab lab, Contender contender, Setup setup, Update update, CancellationToken cancel)
    {
        await using var service = await lab.StartAsync(contender, setup, instances: 2, Orders, LoadTime, cancel);
        var (journal, stale) = (new Journal(), 0);
        var readers = Load.OpenAsync(_ => Rate, Duration, async _ => // an even rate, because hits depend on it
        {
            var (id, began) = (service.Ids[Random.Shared.Next(Orders)], Stopwatch.GetTimestamp());
            var order = await service.Nodes[1].GetAsync(id, cancel);
            if (journal.Staleness(id, order!.Version, began) > 0)
            {
                Interlocked.Increment(ref stale);
            }
        }, cancel);
        await Load.ClosedAsync(1, TimeSpan.FromMilliseconds(120), Duration, lab.Seed + 5, async (_, random) =>
        {
            var id = service.Ids[random.Next(Orders)];
            journal.Acknowledged(id, await service.Nodes[0].WriteAsync(id, random.Next(1, 100), update, cancel));
        }, cancel);
        var reads = (await readers).Samples.Count;
        return ((double)stale / reads, 1 - (double)service.Source.Loads / reads, service.Settings);
    }
}
