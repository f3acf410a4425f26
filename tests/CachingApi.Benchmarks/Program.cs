// Side by side, in one run, so that the ratios hold on any machine: ./dev bench, or one part of it: ./dev bench eviction
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text.Json.Serialization;
using CachingApi.Benchmarks;
using CachingApi.Caching;
using CachingApi.Storage;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

if (args is ["eviction", var redisServer])
{
    await EvictionBenchmark.RunAsync(redisServer);
    return;
}

if (args is ["rate-limit"])
{
    await RateLimitBenchmark.RunAsync(Connection("Redis"));
    return;
}

if (args is ["write-behind"])
{
    await WriteBehindBenchmark.RunAsync(Connection("Postgres"), Connection("Redis"), Connection("RedisState"));
    return;
}

var prefix = $"bench-{Guid.NewGuid():N}";
using var host = await StartAsync("00:00:05");

var engine = host.Services.GetRequiredService<CacheAside>();
var redis = host.Services.GetRequiredService<Redis>();
var cache = new Cache<Thing>("bench", new CacheSettings { MemoryTtl = TimeSpan.Zero }, BenchJson.Default.Thing, thing => thing.Version);
var thing = new Thing(new string('x', 500), 1);
var key = cache.Key("hot");
var stored = (await engine.GetAsync(key, _ => Task.FromResult<Thing?>(thing), CancellationToken.None)).Entry;
await redis.Cache.StringSetAsync($"{redis.KeyPrefix}:raw", stored.Bytes, TimeSpan.FromMinutes(10));

var inMemory = new Cache<Thing>("bench-memory", new CacheSettings(), BenchJson.Default.Thing, thing => thing.Version);
var memoryKey = inMemory.Key("hot");
Func<CancellationToken, Task<Thing?>> load = _ => Task.FromResult<Thing?>(thing);
while ((await engine.GetAsync(memoryKey, load, CancellationToken.None)).Outcome is not CacheOutcome.MemoryHit)
{
    await Task.Delay(50); // the memory tier begins with the backplane's first beat
}

var (nanoseconds, bytes) = await MemoryHitsAsync();
Console.WriteLine($"Memory hit: {nanoseconds:N0} ns, {bytes:N2} B allocated.");
Console.WriteLine();
Console.WriteLine("| what | raw GET | engine | ratio |");
Console.WriteLine("|---|---|---|---|");
foreach (var callers in new[] { 1, 64 })
{
    var (raw, ours) = await SideBySideAsync(
        callers,
        () => redis.Cache.StringGetAsync($"{redis.KeyPrefix}:raw"),
        () => engine.GetAsync(key, _ => throw new InvalidOperationException("It is cached."), CancellationToken.None).AsTask());
    Console.WriteLine($"| Redis hit, {callers} at a time | {raw:N0}/s | {ours:N0}/s | {ours / raw:F2} |");
}

var loads = 0;
await Task.WhenAll(Enumerable.Range(0, 1000).Select(_ => Task.Run(() => engine.GetAsync(
    cache.Key("cold"),
    async stop =>
    {
        Interlocked.Increment(ref loads);
        await Task.Delay(100, stop);
        return (Thing?)thing;
    },
    CancellationToken.None).AsTask())));
Console.WriteLine();
Console.WriteLine($"1,000 concurrent readers of a cold key: {loads} load.");

Console.WriteLine();
await UpdatesAsync();
await FrozenAsync();

await host.StopAsync();

await RateLimitBenchmark.RunAsync(Connection("Redis"));
await WriteBehindBenchmark.RunAsync(Connection("Postgres"), Connection("Redis"), Connection("RedisState"));

static string Connection(string server) => Environment.GetEnvironmentVariable($"ConnectionStrings__{server}") ?? "";

// The engine alone: no schema is needed.
async Task<IHost> StartAsync(string redisDeadline)
{
    var builder = Host.CreateApplicationBuilder(args);
    builder.Configuration["Redis:KeyPrefix"] = prefix;
    builder.Configuration["Cache:RedisDeadline"] = redisDeadline;
    builder.Configuration["Database:ChangeCapture"] = "false";
    builder.Logging.SetMinimumLevel(LogLevel.Error);
    builder.Services.AddSingleton(TimeProvider.System).AddPostgres().AddRedis().AddCaching();
    builder.Services.Remove(builder.Services.Single(service => service.ImplementationType == typeof(Migrations)));
    var host = builder.Build();
    await host.StartAsync();
    return host;
}

// From a write's end in one process to the first read of it in another, which has the old value in memory.
async Task UpdatesAsync()
{
    const int Updates = 1000;
    using var other = await StartAsync("00:00:05");
    var there = other.Services.GetRequiredService<CacheAside>();
    var here = host.Services.GetRequiredService<WriteThrough>();
    var theirs = new Cache<Thing>("bench-memory", new CacheSettings(), BenchJson.Default.Thing, thing => thing.Version);
    var times = new List<double>();
    for (var version = 2; version < Updates + 2; version++)
    {
        while ((await there.GetAsync(theirs.Key("hot"), load, CancellationToken.None)).Outcome is not CacheOutcome.MemoryHit)
        {
            await Task.Delay(1);
        }

        await here.PutAsync(memoryKey, thing with { Version = version }, CancellationToken.None);
        var start = Stopwatch.GetTimestamp();
        while ((await there.GetAsync(theirs.Key("hot"), load, CancellationToken.None)).Entry.Version != version)
        {
        }

        times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
    }

    Console.WriteLine($"An update is seen by another process after {Percentile(times, 0.5):F2} ms (p50), {Percentile(times, 0.99):F2} ms (p99), {times.Max():F2} ms at most of {Updates:N0}.");
    await other.StopAsync();
}

// Redis is there and answers nothing for five seconds.
async Task FrozenAsync()
{
    using var other = await StartAsync("00:00:00.050");
    var there = other.Services.GetRequiredService<CacheAside>();
    var theirs = new Cache<Thing>("bench", new CacheSettings { MemoryTtl = TimeSpan.Zero }, BenchJson.Default.Thing, thing => thing.Version);
    await there.GetAsync(theirs.Key("hot"), load, CancellationToken.None);
    var times = new ConcurrentBag<double>();
    await using var admin = await ConnectionMultiplexer.ConnectAsync($"{host.Services.GetRequiredService<IOptions<ConnectionStrings>>().Value.Redis},allowAdmin=true");
    await admin.GetServers()[0].ExecuteAsync("CLIENT", "PAUSE", "5000", "ALL");
    await PerSecondAsync(16, async () =>
    {
        var start = Stopwatch.GetTimestamp();
        await there.GetAsync(theirs.Key("hot"), load, CancellationToken.None);
        times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
    });
    Console.WriteLine($"Reads while Redis answers nothing, deadline 50 ms: {Percentile(times, 0.99):F1} ms (p99), {times.Max():F1} ms at most of {times.Count:N0}.");
    await other.StopAsync();
}

static double Percentile(IEnumerable<double> times, double part) => times.Order().ElementAt((int)(times.Count() * part));

// The median of rounds of a million.
async Task<(double Nanoseconds, double Bytes)> MemoryHitsAsync()
{
    const int Hits = 1_000_000;
    var rounds = new List<(double Nanoseconds, double Bytes)>();
    for (var round = 0; round < 7; round++)
    {
        var (start, allocated) = (Stopwatch.GetTimestamp(), GC.GetAllocatedBytesForCurrentThread());
        for (var hit = 0; hit < Hits; hit++)
        {
            await engine.GetAsync(memoryKey, load, CancellationToken.None);
        }

        rounds.Add((Stopwatch.GetElapsedTime(start).TotalNanoseconds / Hits, (GC.GetAllocatedBytesForCurrentThread() - allocated) / (double)Hits));
    }

    return rounds.Order().ElementAt(3);
}

// Interleaved rounds; the median of each.
static async Task<(double Left, double Right)> SideBySideAsync(int callers, Func<Task> left, Func<Task> right)
{
    var (lefts, rights) = (new List<double>(), new List<double>());
    for (var round = 0; round < 7; round++)
    {
        lefts.Add(await PerSecondAsync(callers, left));
        rights.Add(await PerSecondAsync(callers, right));
    }

    return (lefts.Order().ElementAt(3), rights.Order().ElementAt(3));
}

static async Task<double> PerSecondAsync(int callers, Func<Task> operation)
{
    var (start, done) = (Stopwatch.GetTimestamp(), 0L);
    await Task.WhenAll(Enumerable.Range(0, callers).Select(async _ =>
    {
        await Task.Yield();
        while (Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(1))
        {
            await operation();
            Interlocked.Increment(ref done);
        }
    }));
    return done / Stopwatch.GetElapsedTime(start).TotalSeconds;
}

internal sealed record Thing(string Name, long Version);

[JsonSerializable(typeof(Thing))]
internal sealed partial class BenchJson : JsonSerializerContext;
