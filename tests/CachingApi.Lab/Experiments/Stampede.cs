using CachingApi.Lab.Contenders;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// Many readers in several instances share one key. When it expires, all of them miss at once: every reader loads, or one per instance, or
/// one in all.
/// </summary>
internal static class Stampede
{
    private const int Instances = 4;
    private const int Readers = 200;
    private const double Interval = 0.1;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(5);

    public static Experiment Experiment { get; } = new("stampede", "A stampede on an expiring hot key", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var setup = new Setup { Ttl = TimeSpan.FromSeconds(2) };
        (string Name, Contender Contender, Setup Setup)[] contenders =
        [
            .. Contender.All.Select(contender => (contender.Name, contender, setup)),
            ($"{Contender.Fusion.Name}, locker", Contender.Fusion, setup with { Locker = true }),
        ];
        var loads = new Panel("Loads from PostgreSQL", "time (s)", "loads, in total") { IsLogY = true, HasLegend = false };
        var latency = new Panel("Time of a read, p99 of each 100 ms", "time (s)", "p99 (ms)") { IsLogY = true };
        var (totals, slowest, settings) = (new Dictionary<string, int>(), new Dictionary<string, double>(), new List<(string, string)>());
        var services = await Task.WhenAll(contenders.Select(
            own => lab.StartAsync(own.Contender, own.Setup, Instances, orders: 1, LoadTime, cancel)));
        foreach (var (service, name) in services.Zip(contenders.Select(own => own.Name)))
        {
            Lab.Say(name);
            var hot = service.Ids[0];
            await service.Nodes[0].GetAsync(hot, cancel);
            service.Source.Forget();
            var load = await Load.ClosedAsync(
                Readers,
                TimeSpan.FromMilliseconds(20),
                Duration,
                lab.Seed,
                (caller, _) => service.Nodes[caller % Instances].GetAsync(hot, cancel),
                cancel);

            loads.Line(name, load.CountEvery(Interval, service.Source.LoadTimes).Cumulated(), isStep: true);
            latency.Line(name, load.Every(Interval, times => times.Percentile(0.99)));
            totals[name] = service.Source.Loads;
            slowest[name] = load.Samples.Select(sample => sample.Milliseconds).ToArray().Percentile(0.999);
            settings.Add((name, service.Settings));
            await service.DisposeAsync();
        }

        var ours = Contender.Ours.Name;
        return new()
        {
            Picture = new(loads, latency),
            Done = Text.Fold($"""
                {Readers} readers in {Instances} instances read one order for {Text.Of(Duration)}; it expires every
                {Text.Of(setup.Ttl)}, and a load takes PostgreSQL {Text.Of(LoadTime)}, on at most {Lab.Connections} connections.
                """),
            Seen = Text.Fold($"""
                The expiries cost {Text.Each(totals, own => own.Key, own => Text.Count(own.Value, "load"))}; the slowest reads (p99.9)
                took {Text.Each(slowest, own => own.Key, own => Text.Milliseconds(own.Value))}.
                """),
            Lesson = totals[ours] <= totals.Values.Min()
                ? Text.Fold("""
                    A single-flight in each instance bounds the loads by the number of instances, and only a lease or a lock in Redis
                    bounds them by one per expiry; the readers still wait for that load, which early refresh or a stale answer avoids.
                    """)
                : $"In this run {totals.MinBy(own => own.Value).Key} needed fewer loads than {ours}.",
            Settings = settings,
        };
    }
}
