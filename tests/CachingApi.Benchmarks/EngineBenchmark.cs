using System.Collections.Concurrent;
using System.ComponentModel;
using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Serialization;
using CachingApi.Caching;
using CachingApi.Redis;
using CachingApi.Storage;
using Microsoft.Extensions.Caching.Hybrid;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using StackExchange.Redis;
using ZiggyCreatures.Caching.Fusion;
using ZiggyCreatures.Caching.Fusion.Serialization;

namespace CachingApi.Benchmarks;

/// <summary>
/// The engine alone: the cost of a hit beside FusionCache, HybridCache and a raw <c>GET</c>, and with a million keys; the cost of a
/// stampede, of an update and of an outage.
/// </summary>
/// <remarks>A hit of this engine is the response's bytes; a hit of the others is an object that must still be serialised.</remarks>
internal static class EngineBenchmark
{
    private static readonly Thing Hot = new(new string('x', 500), 1);
    private static readonly Func<CancellationToken, Task<Thing?>> Load = _ => Task.FromResult<Thing?>(Hot);

    public static async Task RunAsync(string redisConnection)
    {
        var prefix = $"bench-{Guid.NewGuid():N}";
        using var host = await StartAsync(prefix, "00:00:05");
        await HitsAsync(host, redisConnection);
        await ManyKeysAsync(host);
        await StampedeAsync(host);
        await UpdatesAsync(host, prefix);
        await FrozenAsync(prefix, redisConnection);
        await host.StopAsync();
    }

    /// <summary>The engine alone: no schema is needed.</summary>
    private static async Task<IHost> StartAsync(string prefix, string redisDeadline)
    {
        var builder = Host.CreateApplicationBuilder();
        builder.Configuration["Redis:KeyPrefix"] = prefix;
        builder.Configuration["Cache:RedisDeadline"] = redisDeadline;
        builder.Configuration["Database:ChangeCapture"] = "false";
        builder.Logging.SetMinimumLevel(LogLevel.Error);
        builder.Services.AddSingleton(TimeProvider.System).AddPostgres().AddRedis().AddCaches();
        builder.Services.Remove(builder.Services.Single(service => service.ImplementationType == typeof(Migrations)));
        var host = builder.Build();
        await host.StartAsync();
        return host;
    }

    private static Cache<Thing> Things(IHost host, string name, CacheOptions options) => new(
        new(name) { Version = thing => thing.Version },
        options,
        new JsonFormat<Thing>(BenchJson.Default.Thing),
        host.Services.GetRequiredService<CacheEngine>());

    /// <summary>Reads until memory has the entry: the memory tier is used from the backplane's first heartbeat on.</summary>
    private static async Task InMemoryAsync(CacheAside engine, CacheKey<Thing> key)
    {
        while ((await engine.GetAsync(key, Load, null, CancellationToken.None)).Outcome is not CacheOutcome.MemoryHit)
        {
            await Task.Delay(1);
        }
    }

    private static async Task HitsAsync(IHost host, string redisConnection)
    {
        var (engine, redis) = (host.Services.GetRequiredService<CacheAside>(), host.Services.GetRequiredService<RedisConnections>());
        await using var others = Others(redisConnection, redis.KeyPrefix);
        var (fusion, hybrid) = (others.GetRequiredService<IFusionCache>(), others.GetRequiredService<HybridCache>());
        var inMemory = Things(host, "bench-memory", new()).Key("hot");
        await InMemoryAsync(engine, inMemory);

        Console.WriteLine();
        Console.WriteLine("| memory hit | time | allocated |");
        Console.WriteLine("|---|---|---|");
        await CostAsync("engine", async hits =>
        {
            for (var hit = 0; hit < hits; hit++)
            {
                await engine.GetAsync(inMemory, Load, null, CancellationToken.None);
            }
        });
        await CostAsync("FusionCache", async hits =>
        {
            for (var hit = 0; hit < hits; hit++)
            {
                await fusion.GetOrSetAsync<Thing>("hot", static (_, _) => Task.FromResult(Hot));
            }
        });
        await CostAsync("HybridCache", async hits =>
        {
            for (var hit = 0; hit < hits; hit++)
            {
                await hybrid.GetOrCreateAsync("hot", static _ => ValueTask.FromResult(Hot));
            }
        });

        // With a single key, the other libraries would share one look-up among all callers.
        const int Keys = 1_000;
        var inRedis = Things(host, "bench", new() { MemoryTtl = TimeSpan.Zero });
        var stored = (await engine.GetAsync(inRedis.Key("hot"), Load, null, CancellationToken.None)).Entry;
        var (ours, raw, theirs) = (new CacheKey<Thing>[Keys], new RedisKey[Keys], new string[Keys]);
        for (var key = 0; key < Keys; key++)
        {
            (ours[key], raw[key], theirs[key]) = (inRedis.Key($"{key}"), $"{redis.KeyPrefix}:raw:{key}", $"in-redis:{key}");
            await redis.Cache.StringSetAsync(raw[key], stored.Bytes, TimeSpan.FromMinutes(10));
        }

        var noMemory = new HybridCacheEntryOptions { Flags = HybridCacheEntryFlags.DisableLocalCache };
        var skipMemory = new FusionCacheEntryOptions(TimeSpan.FromMinutes(10)) { SkipMemoryCacheRead = true, SkipMemoryCacheWrite = true };
        var turn = 0;
        int Next() => (Interlocked.Increment(ref turn) & int.MaxValue) % Keys;
        Func<Task>[] reads =
        [
            () => redis.Cache.StringGetAsync(raw[Next()]),
            () => engine.GetAsync(ours[Next()], Load, null, CancellationToken.None).AsTask(),
            () => fusion.GetOrSetAsync<Thing>(theirs[Next()], static (_, _) => Task.FromResult(Hot), skipMemory).AsTask(),
            () => hybrid.GetOrCreateAsync(theirs[Next()], static _ => ValueTask.FromResult(Hot), noMemory).AsTask(),
        ];
        Console.WriteLine();
        Console.WriteLine("| Redis hit | raw GET | engine | of raw GET | FusionCache | HybridCache |");
        Console.WriteLine("|---|---|---|---|---|---|");
        foreach (var callers in new[] { 1, 64 })
        {
            var perSecond = await Measure.SideBySideAsync(
                [.. reads.Select(read => (Func<Task<double>>)(() => Measure.PerSecondAsync(callers, read)))]);
            Console.WriteLine(
                $"| {callers} at a time | {perSecond[0]:N0}/s | {perSecond[1]:N0}/s | {perSecond[1] / perSecond[0]:F2} "
                + $"| {perSecond[2]:N0}/s | {perSecond[3]:N0}/s |");
        }
    }

    /// <summary>The other libraries, set up as in their documentation, on the same Redis.</summary>
    private static ServiceProvider Others(string redisConnection, string prefix)
    {
        var services = new ServiceCollection();
        services.AddStackExchangeRedisCache(redis => (redis.Configuration, redis.InstanceName) = (redisConnection, $"{prefix}:others:"));
        services.AddHybridCache();
        services.AddFusionCache().WithRegisteredDistributedCache().WithSerializer(new FusionJson());
        return services.BuildServiceProvider();
    }

    /// <summary>The median of rounds of a million calls, which is more than the compiler needs to optimise fully.</summary>
    private static async Task CostAsync(string name, Func<int, Task> hitAsync)
    {
        const int Hits = 1_000_000;
        var rounds = new List<(double Nanoseconds, double Bytes)>();
        for (var round = 0; round < 21; round++)
        {
            var (start, allocated) = (Stopwatch.GetTimestamp(), GC.GetAllocatedBytesForCurrentThread());
            await hitAsync(Hits);
            rounds.Add((
                Stopwatch.GetElapsedTime(start).TotalNanoseconds / Hits,
                (GC.GetAllocatedBytesForCurrentThread() - allocated) / (double)Hits));
        }

        var (nanoseconds, bytes) = rounds.Order().ElementAt(10);
        Console.WriteLine($"| {name} | {nanoseconds:N0} ns | {bytes:N0} B |");
    }

    /// <summary>
    /// Memory hits of keys in random order, beside a dictionary alone: with more keys, the processor's caches miss more often.
    /// </summary>
    private static async Task ManyKeysAsync(IHost host)
    {
        var engine = host.Services.GetRequiredService<CacheAside>();
        var small = Task.FromResult<Thing?>(new("", 1));
        Func<CancellationToken, Task<Thing?>> load = _ => small;
        Console.WriteLine();
        Console.WriteLine("| keys | memory hit | dictionary |");
        Console.WriteLine("|---|---|---|");
        foreach (var count in new[] { 1_000, 10_000, 100_000, 1_000_000 })
        {
            var things = Things(host, $"bench-{count}", new() { MemoryTtl = TimeSpan.FromMinutes(10), MemoryEntries = 2 * count });
            var keys = Enumerable.Range(0, count).Select(id => things.Key($"{id}")).ToArray();

            // Twice, because memory may not keep one of several entries that are filled at the same time.
            for (var fill = 0; fill < 2; fill++)
            {
                await Parallel.ForEachAsync(
                    keys,
                    new ParallelOptions { MaxDegreeOfParallelism = 8 },
                    async (key, cancel) => await engine.GetAsync(key, load, null, cancel));
            }

            var dictionary = new ConcurrentDictionary<string, object>(
                keys.Select(key => KeyValuePair.Create(key.Id, new object())), StringComparer.Ordinal);

            // Other strings than those that are held, as in a service, which makes the key of each request.
            var numbers = Enumerable.Range(0, count).ToArray();
            new Random(1).Shuffle(numbers);
            keys = [.. numbers.Select(id => things.Key($"{id}"))];
            const int Rounds = 5;
            var (ours, alone) = (new List<double>(), new List<double>());
            for (var round = 0; round < Rounds; round++)
            {
                var start = Stopwatch.GetTimestamp();
                for (var all = 0; all < 1_000_000 / count; all++)
                {
                    foreach (var key in keys)
                    {
                        await engine.GetAsync(key, load, null, CancellationToken.None);
                    }
                }

                ours.Add(Stopwatch.GetElapsedTime(start).TotalNanoseconds / 1_000_000);
                start = Stopwatch.GetTimestamp();
                for (var all = 0; all < 1_000_000 / count; all++)
                {
                    foreach (var key in keys)
                    {
                        dictionary.TryGetValue(key.Id, out _);
                    }
                }

                alone.Add(Stopwatch.GetElapsedTime(start).TotalNanoseconds / 1_000_000);
            }

            Console.WriteLine($"| {count:N0} | {ours.Order().ElementAt(Rounds / 2):N0} ns | {alone.Order().ElementAt(Rounds / 2):N0} ns |");
        }
    }

    private static async Task StampedeAsync(IHost host)
    {
        var engine = host.Services.GetRequiredService<CacheAside>();
        var cold = Things(host, "bench", new()).Key("cold");
        var loads = 0;
        await Task.WhenAll(Enumerable.Range(0, 1000).Select(_ => Task.Run(() => engine.GetAsync(
            cold,
            async stop =>
            {
                Interlocked.Increment(ref loads);
                await Task.Delay(100, stop);
                return (Thing?)Hot;
            },
            null,
            CancellationToken.None).AsTask())));
        Console.WriteLine();
        Console.WriteLine($"1,000 concurrent readers of a cold key: {loads} load.");
    }

    /// <summary>
    /// The time from a write's end in one process to its first read in another process, which has the old value in memory.
    /// </summary>
    private static async Task UpdatesAsync(IHost host, string prefix)
    {
        const int Updates = 1000;
        using var other = await StartAsync(prefix, "00:00:05");
        var there = other.Services.GetRequiredService<CacheAside>();
        var here = host.Services.GetRequiredService<WriteThrough>();
        var (ours, theirs) = (Things(host, "bench-memory", new()).Key("hot"), Things(other, "bench-memory", new()).Key("hot"));
        var times = new List<double>();
        for (var version = 2; version < Updates + 2; version++)
        {
            await InMemoryAsync(there, theirs);
            await here.PutAsync(ours, Hot with { Version = version }, Moment.Now, CancellationToken.None);
            var start = Stopwatch.GetTimestamp();
            while ((await there.GetAsync(theirs, Load, null, CancellationToken.None)).Entry.Version != version)
            {
            }

            times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        }

        Console.WriteLine(
            $"An update is seen by another process after {Measure.Percentile(times, 0.5):F2} ms (p50), "
            + $"{Measure.Percentile(times, 0.99):F2} ms (p99), {times.Max():F2} ms at most of {Updates:N0}.");
        await other.StopAsync();
    }

    /// <summary>Redis is frozen for five seconds: connections stay open, and it does not answer.</summary>
    private static async Task FrozenAsync(string prefix, string redisConnection)
    {
        using var host = await StartAsync(prefix, "00:00:00.050");
        var engine = host.Services.GetRequiredService<CacheAside>();
        var key = Things(host, "bench", new() { MemoryTtl = TimeSpan.Zero }).Key("hot");
        await engine.GetAsync(key, Load, null, CancellationToken.None);
        var times = new ConcurrentBag<double>();
        await using var admin = await ConnectionMultiplexer.ConnectAsync($"{redisConnection},allowAdmin=true");
        await admin.GetServers()[0].ExecuteAsync("CLIENT", "PAUSE", "5000", "ALL");
        await Measure.PerSecondAsync(16, async () =>
        {
            var start = Stopwatch.GetTimestamp();
            await engine.GetAsync(key, Load, null, CancellationToken.None);
            times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        });
        Console.WriteLine(
            $"Reads while Redis answers nothing, deadline 50 ms: {Measure.Percentile(times, 0.99):F1} ms (p99), "
            + $"{times.Max():F1} ms at most of {times.Count:N0}.");
        await host.StopAsync();
    }

    private sealed class FusionJson : IFusionCacheSerializer
    {
        public byte[] Serialize<T>(T? obj) => JsonSerializer.SerializeToUtf8Bytes(obj);

        public T? Deserialize<T>(byte[] data) => JsonSerializer.Deserialize<T>(data);

        public ValueTask<byte[]> SerializeAsync<T>(T? obj, CancellationToken token = default) => ValueTask.FromResult(Serialize(obj));

        public ValueTask<T?> DeserializeAsync<T>(byte[] data, CancellationToken token = default) =>
            ValueTask.FromResult(Deserialize<T>(data));
    }
}

/// <remarks>HybridCache returns an immutable object without deserialising it each time.</remarks>
[ImmutableObject(true)]
internal sealed record Thing(string Name, long Version);

[JsonSerializable(typeof(Thing))]
internal sealed partial class BenchJson : JsonSerializerContext;
