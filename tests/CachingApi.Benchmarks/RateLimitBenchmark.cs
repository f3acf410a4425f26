using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Storage;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Benchmarks;

/// <summary>
/// What a limit costs: over HTTP, a route with one beside the same route without, one that sends a raw <c>INCR</c>, and one that
/// is denied; then the decision alone beside a raw <c>INCR</c>.
/// </summary>
internal static class RateLimitBenchmark
{
    private const int Callers = 64;

    private static readonly string[] Algorithms = [Algorithm.FixedWindow, Algorithm.SlidingWindow, Algorithm.SlidingWindowCounter, Algorithm.TokenBucket];

    public static async Task RunAsync(string redisConnection)
    {
        var prefix = $"bench-{Guid.NewGuid():N}";
        var builder = WebApplication.CreateEmptyBuilder(new());
        builder.Configuration.AddInMemoryCollection([
            new("ConnectionStrings:Redis", redisConnection),
            new("Redis:KeyPrefix", prefix),
            new("Redis:StateDeadline", "00:00:05"),
            new("Serilog:MinimumLevel:Default", "Error"),
            .. Policy("denied", Algorithm.FixedWindow, 1, "31.00:00:00"),
            .. Algorithms.SelectMany(name => Policy(name, name, name is Algorithm.SlidingWindow ? SlidingWindow.MaxLimit : 1_000_000, "00:00:01")),
        ]);
        builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
        builder.AddApiConventions();
        builder.Services.AddRouting().AddRedis().AddRateLimits();
        builder.Services.Configure<ConnectionStrings>(builder.Configuration.GetSection("ConnectionStrings"));

        await using var app = builder.Build();
        app.UseRateLimits();
        app.MapGet("/none", () => "ok");
        app.MapGet("/incr", async (Redis redis) =>
        {
            await redis.State.StringIncrementAsync($"{prefix}:raw");
            return "ok";
        });
        app.MapGet("/denied", () => "ok").RequireRateLimit("denied");
        foreach (var name in Algorithms)
        {
            app.MapGet($"/{name}", () => "ok").RequireRateLimit(name);
        }

        await app.StartAsync();
        var address = new Uri(app.Urls.Single());
        var routes = (string[])["none", "incr", "denied", Algorithm.FixedWindow, Algorithm.SlidingWindowCounter, Algorithm.TokenBucket];
        var perSecond = await SideBySideAsync([.. routes.Select(route => (Func<Task<double>>)(() => RequestsPerSecondAsync(address.Port, route)))]);
        Console.WriteLine();
        Console.WriteLine($"| route, {Callers} callers | requests/s | of unlimited | of raw INCR |");
        Console.WriteLine("|---|---|---|---|");
        foreach (var (route, rate) in routes.Zip(perSecond))
        {
            Console.WriteLine($"| {route} | {rate:N0} | {rate / perSecond[0]:F2} | {rate / perSecond[1]:F2} |");
        }

        var limiter = app.Services.GetRequiredService<RateLimiter>();
        var policies = app.Services.GetRequiredService<RateLimitPolicies>();
        var state = app.Services.GetRequiredService<Redis>().State;
        Demand[][] demands = [.. Algorithms.Select(name => Demands(name)), Demands(Algorithm.FixedWindow, Algorithm.TokenBucket)];
        perSecond = await SideBySideAsync([
            () => PerSecondAsync(() => state.StringIncrementAsync($"{prefix}:raw")),
            .. demands.Select(demand => (Func<Task<double>>)(() => PerSecondAsync(() => limiter.DecideAsync(demand, CancellationToken.None)))),
        ]);
        Console.WriteLine();
        Console.WriteLine($"| decision, {Callers} callers | per second | of raw INCR |");
        Console.WriteLine("|---|---|---|");
        foreach (var (name, rate) in Algorithms.Prepend("raw INCR").Append("two policies").Zip(perSecond))
        {
            Console.WriteLine($"| {name} | {rate:N0} | {rate / perSecond[0]:F2} |");
        }

        await app.StopAsync();

        Demand[] Demands(params string[] names) =>
            [.. names.Select(name => policies.Find(name)!).Select(policy => new Demand(policy, policy.Key(prefix, "ip:203.0.113.7"), 1))];
    }

    private static IEnumerable<KeyValuePair<string, string?>> Policy(string name, string algorithm, int limit, string window) =>
    [
        new($"RateLimits:Policies:{name}:Algorithm", algorithm),
        new($"RateLimits:Policies:{name}:Limit", $"{limit}"),
        new($"RateLimits:Policies:{name}:Window", window),
    ];

    /// <summary>Interleaved rounds; the median of each.</summary>
    private static async Task<double[]> SideBySideAsync(Func<Task<double>>[] measures)
    {
        var rounds = measures.Select(_ => new List<double>()).ToArray();
        for (var round = 0; round < 5; round++)
        {
            for (var measure = 0; measure < measures.Length; measure++)
            {
                rounds[measure].Add(await measures[measure]());
            }
        }

        return [.. rounds.Select(rates => rates.Order().ElementAt(rates.Count / 2))];
    }

    private static async Task<double> PerSecondAsync(Func<Task> operation)
    {
        var (start, done) = (Stopwatch.GetTimestamp(), 0L);
        await Task.WhenAll(Enumerable.Range(0, Callers).Select(async _ =>
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

    /// <remarks>The callers share the processors with the service, so they do as little as they can: no HTTP library.</remarks>
    private static async Task<double> RequestsPerSecondAsync(int port, string route)
    {
        var request = Encoding.ASCII.GetBytes($"GET /{route} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        var (start, done) = (Stopwatch.GetTimestamp(), 0L);
        await Task.WhenAll(Enumerable.Range(0, Callers).Select(async _ =>
        {
            using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            await socket.ConnectAsync(IPAddress.Loopback, port);
            var buffer = new byte[4096];
            while (Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(1))
            {
                await socket.SendAsync(request);
                var length = 0;
                do
                {
                    var received = await socket.ReceiveAsync(buffer.AsMemory(length));
                    length += received > 0 ? received : throw new IOException("The service has closed the connection.");
                }
                while (!buffer.AsSpan(0, length).EndsWith("\r\n\r\nok"u8) && !buffer.AsSpan(0, length).EndsWith("\r\n0\r\n\r\n"u8));
                Interlocked.Increment(ref done);
            }
        }));
        return done / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }
}
