using CachingApi.Lab.Contenders;
using CachingApi.Tests.Servers;
using StackExchange.Redis;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// A Redis that is frozen is worse than one that is down: connections stay open and nothing answers, so each read waits for its time-out.
/// </summary>
internal static class FrozenRedis
{
    private const double Rate = 40;
    private const double Interval = 0.25;

    private static readonly TimeSpan LoadTime = TimeSpan.FromMilliseconds(10);
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(10);
    private static readonly (double From, double To) Frozen = (2, 6);

    public static Experiment Experiment { get; } = new("frozen-redis", "A frozen Redis", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        await using var redis = await RedisServer.StartAsync();
        var setup = new Setup { Ttl = TimeSpan.FromMinutes(1), Resilient = true, Redis = redis.ConnectionString };
        var panel = new Panel("Slowest read that began in each 250 ms, failed ones too", "time (s)", "time of the read (ms)")
        {
            IsLogY = true,
        };
        panel.Span(Frozen.From, Frozen.To, "Redis is frozen (SIGSTOP)");
        var (during, settings) = (new Dictionary<string, (double Median, double Worst, int Failed)>(), new List<(string, string)>());
        foreach (var contender in Contender.All)
        {
            Lab.Say(contender.Name);
            var (load, failed, own) = await RunAsync(lab, redis, contender, setup, cancel);
            panel.Line(contender.Name, load.Every(Interval, times => times.Max()));
            var times = load.Samples.Where(sample => sample.At >= Frozen.From && sample.At < Frozen.To)
                .Select(sample => sample.Milliseconds).ToArray();
            during[contender.Name] = (times.Percentile(0.5), times.Max(), failed);
            settings.Add((contender.Name, own));
        }

        var best = during.MinBy(own => own.Value.Worst);
        return new()
        {
            Picture = new(panel) { Height = 400 },
            Done = Text.Fold($"""
                {Text.Number(Rate)} reads per second begin, each of an order that is not in memory, while a Redis is frozen for
                {Text.Number(Frozen.To - Frozen.From)} s; a load takes {Text.Of(LoadTime)}.
                """),
            Seen = Text.Fold($"""
                While Redis is frozen, the median and the slowest read take
                {Text.Each(during, own => own.Key, own => Times(own.Value))}.
                """),
            Lesson = best.Key == Contender.Ours.Name
                ? Text.Fold("""
                    A short deadline and a circuit breaker bound the wait and send the reads to the source; the price is that the source
                    must carry them, and that a Redis which is only slow counts as frozen, too.
                    """)
                : $"In this run the slowest read of {best.Key} was faster than that of {Contender.Ours.Name}.",
            Settings = settings,
        };

        static string Times((double Median, double Worst, int Failed) reads) =>
            $"{Text.Milliseconds(reads.Median)} and {Text.Milliseconds(reads.Worst)}"
            + (reads.Failed > 0 ? $", {Text.Number(reads.Failed)} failed" : "");
    }

    private static async Task<(Load Load, int Failed, string Settings)> RunAsync(
        Lab lab, RedisServer redis, Contender contender, Setup setup, CancellationToken cancel)
    {
        await using var service = await lab.StartAsync(
            contender, setup, instances: 1, orders: (int)(Rate * Duration.TotalSeconds * 1.2), LoadTime, cancel);
        var (next, failed) = (-1, 0);
        var load = Load.OpenAsync(_ => Rate, Duration, async _ =>
        {
            try
            {
                await service.Nodes[0].GetAsync(service.Ids[Interlocked.Increment(ref next) % service.Ids.Count], cancel);
            }
            catch (Exception error) when (error is RedisException or TimeoutException)
            {
                Interlocked.Increment(ref failed);
            }
        }, cancel);
        await Task.Delay(TimeSpan.FromSeconds(Frozen.From), cancel);
        await redis.PauseAsync();
        try
        {
            await Task.Delay(TimeSpan.FromSeconds(Frozen.To - Frozen.From), cancel);
        }
        finally
        {
            await redis.ResumeAsync();
        }

        return (await load, failed, service.Settings);
    }
}
