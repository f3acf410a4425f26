using CachingApi.Caching;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using ScottPlot;
using StackExchange.Redis;
using Order = CachingApi.Orders.Order;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// What each <c>maxmemory-policy</c> of Redis keeps when it has room for a tenth of the keys: in steady use, while a scan reads each key
/// once, and after popularity changes. Beside them the memory tier of this library, which evicts by S3-FIFO.
/// </summary>
internal static class Eviction
{
    private const int Keys = 20_000;
    private const int Room = Keys / 10;
    private const int BatchSize = 50;
    private const int EntrySize = 300;
    private const double Phase = 8; // seconds; Redis records times of use in seconds, so a faster run would make lru look like chance
    private const string Memory = "this library: memory (S3-FIFO)";

    private static readonly TimeSpan Pace = TimeSpan.FromMilliseconds(50);

    private static readonly (string Policy, string Colour, LinePattern Line)[] Policies =
    [
        ("allkeys-lfu", Theme.Ink, LinePattern.Solid),
        ("allkeys-lru", Theme.Other, LinePattern.Solid),
        ("allkeys-random", Theme.Further, LinePattern.Dashed),
        ("volatile-ttl", Theme.Further, LinePattern.Dotted),
        ("noeviction", Theme.Without, LinePattern.Dashed),
    ];

    public static Experiment Experiment { get; } = new("eviction", "Eviction policies", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var redis = Task.WhenAll(Policies.Select(own => RedisAsync(own.Policy, lab.Seed, cancel)));
        var memory = await MemoryAsync(lab.Seed, cancel);
        var runs = (await redis).Zip(Policies).Select(pair => (pair.Second.Policy, pair.Second.Colour, pair.Second.Line, Hits: pair.First))
            .Append((Policy: Memory, Colour: Theme.Ours, Line: LinePattern.Solid, Hits: memory)).ToArray();

        var panel = new Panel($"Hits with room for {Text.Number(Room)} of {Text.Number(Keys)} keys", "time (s)", "hits of each second (%)");
        panel.Span(Phase, 2 * Phase, "beside a scan");
        panel.Moment(2 * Phase, "");
        panel.Note(Phase / 2, "steady use");
        panel.Note(2.5 * Phase, "popularity has changed");
        foreach (var run in runs)
        {
            panel.Line(run.Policy, Color.FromHex(run.Colour), run.Line, PerSecond(run.Hits));
        }

        var phases = runs.ToDictionary(run => run.Policy, run => Enumerable.Range(0, 3).Select(phase => run.Hits
            .Skip((int)(phase * Phase / Pace.TotalSeconds)).Take((int)(Phase / Pace.TotalSeconds)).Average() / BatchSize).ToArray());
        string Best(int phase) =>
            phases.MaxBy(own => own.Value[phase]).Key.Replace(Memory, "this library's memory", StringComparison.Ordinal);
        return new()
        {
            Picture = new(panel) { Height = 420 },
            Done = Text.Fold($"""
                Keys are requested by Zipf's law, {Text.Number(BatchSize / Pace.TotalSeconds)} per second from each cache; after
                {Text.Number(Phase)} s a scan also reads as many other keys, each once, and then the popular keys become other ones.
                """),
            Seen = Text.Fold($"""
                Hits in the three phases are {Text.Each(phases, own => own.Key, own => Text.List(own.Value.Select(Text.Percent)))}.
                """),
            Lesson = Text.Fold($"""
                In steady use {Best(0)} kept most, beside the scan {Best(1)}, and after the change {Best(2)}; a count of uses resists a scan
                and adapts slowly, recency adapts quickly and does not resist, and noeviction refuses what is new.
                """),
            Settings =
            [
                ("Redis", $"one server for each policy, `maxmemory` as used with {Text.Number(Room)} entries of {EntrySize} bytes"),
                ("this library", $"`MemoryEntries` {Text.Number(Room)}, no Redis"),
            ],
        };
    }

    private static (double, double)[] PerSecond(IReadOnlyList<int> hits) =>
    [
        .. hits.Chunk((int)(1 / Pace.TotalSeconds)).Select((second, index) => ((double)index, 100.0 * second.Average() / BatchSize)),
    ];

    /// <summary>The hits of each batch of a cache.</summary>
    /// <param name="request">Requests keys from the cache, fills in the missing ones, and returns the number of hits.</param>
    private static async Task<List<int>> PhasesAsync(int seed, Func<int[], Task<int>> request, CancellationToken cancel)
    {
        var (random, zipf, scanned) = (new Random(seed), Zipf(), 0);
        var ranking = Enumerable.Range(0, Keys).ToArray();
        random.Shuffle(ranking);
        for (var batch = 0; batch < Keys / BatchSize; batch++)
        {
            await request(Requested()); // until it is full
        }

        var hits = new List<int>();
        using var timer = new PeriodicTimer(Pace);
        for (var phase = 0; phase < 3; phase++)
        {
            if (phase == 2)
            {
                random.Shuffle(ranking);
            }

            for (var batch = 0; batch < Phase / Pace.TotalSeconds; batch++)
            {
                await timer.WaitForNextTickAsync(cancel);
                hits.Add(await request(Requested()));
                if (phase == 1)
                {
                    await request([.. Enumerable.Range(0, BatchSize).Select(_ => Keys + scanned++)]);
                }
            }
        }

        return hits;

        int[] Requested() => [.. Enumerable.Range(0, BatchSize).Select(_ =>
        {
            var found = Array.BinarySearch(zipf, random.NextDouble());
            return ranking[Math.Min(found < 0 ? ~found : found, Keys - 1)];
        })];
    }

    private static async Task<List<int>> RedisAsync(string policy, int seed, CancellationToken cancel)
    {
        await using var server = await RedisServer.StartAsync();
        await using var connection = await ConnectionMultiplexer.ConnectAsync(
            $"{server.ConnectionString},allowAdmin=true,asyncTimeout=60000");
        var redis = connection.GetDatabase();
        await Task.WhenAll(Enumerable.Range(0, Room).Select(SetAsync));
        var full = (long)await redis.ScriptEvaluateAsync(
            "return tonumber(string.match(redis.call('INFO', 'memory'), 'used_memory:(%d+)'))");
        await redis.ExecuteAsync("FLUSHALL");
        await redis.ExecuteAsync("CONFIG", "SET", "maxmemory", full, "maxmemory-policy", policy);
        return await PhasesAsync(seed, async keys =>
        {
            var values = await redis.StringGetAsync([.. keys.Select(key => (RedisKey)$"order:{key}")]);
            await Task.WhenAll(keys.Where((_, index) => values[index].IsNull).Distinct().Select(async key =>
            {
                try
                {
                    await SetAsync(key);
                }
                catch (RedisServerException error) when (error.Message.StartsWith("OOM", StringComparison.Ordinal))
                {
                    // The policy refuses new keys.
                }
            }));
            return values.Count(value => !value.IsNull);
        }, cancel);

        Task SetAsync(int key) => redis.StringSetAsync($"order:{key}", new byte[EntrySize], TimeSpan.FromHours(1 + key % 10));
    }

    private static async Task<List<int>> MemoryAsync(int seed, CancellationToken cancel)
    {
        var builder = Host.CreateEmptyApplicationBuilder(new());
        builder.Services.AddCaching().AddCache<Order>("orders", cache => cache
            .Configure(options => (options.MemoryEntries, options.MemoryTtl) = (Room, options.Ttl))
            .Json(LabJson.Default.Order));
        using var host = builder.Build();
        await host.StartAsync(cancel);
        var orders = host.Services.GetRequiredService<Cache<Order>>();
        var hits = await PhasesAsync(seed, async keys =>
        {
            var count = 0;
            foreach (var key in keys)
            {
                var order = new Order { Id = $"{key}", Customer = "Ada Lovelace", Quantity = 1, Version = 1 };
                var read = await orders.GetAsync(order.Id, _ => Task.FromResult<Order?>(order), cancel);
                count += read.Outcome is CacheOutcome.MemoryHit ? 1 : 0;
            }

            return count;
        }, cancel);
        await host.StopAsync(cancel);
        return hits;
    }

    /// <summary>The cumulated probabilities of the ranks, with s = 1.</summary>
    private static double[] Zipf()
    {
        var sum = 0.0;
        var cumulated = Enumerable.Range(1, Keys).Select(rank => sum += 1.0 / rank).ToArray();
        return [.. cumulated.Select(part => part / sum)];
    }
}
