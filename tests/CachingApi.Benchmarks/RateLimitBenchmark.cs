using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using CachingApi.Storage;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Benchmarks;

/// <summary>
/// The cost of a limit. Over HTTP: a route with a limit beside the same route without one, a route that sends a raw <c>INCR</c>, and a
/// route that is denied. Then the decision alone beside a raw <c>INCR</c>.
/// </summary>
internal static class RateLimitBenchmark
{
    private const int Callers = 64;

    private static readonly string[] Algorithms =
    [
        Algorithm.FixedWindow,
        Algorithm.SlidingWindow,
        Algorithm.SlidingWindowCounter,
        Algorithm.TokenBucket,
    ];

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
            .. Algorithms.SelectMany(
                name => Policy(name, name, name is Algorithm.SlidingWindow ? SlidingWindow.MaxLimit : 1_000_000, "00:00:01")),
        ]);
        builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
        builder.AddApiConventions();
        builder.Services.AddRouting().AddRedis().AddRateLimits();
        builder.Services.Configure<ConnectionStrings>(builder.Configuration.GetSection("ConnectionStrings"));

        await using var app = builder.Build();
        app.UseRateLimits();
        app.MapGet("/none", () => "ok");
        app.MapGet("/incr", async (RedisConnections redis) =>
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
        var perSecond = await Measure.SideBySideAsync(
            [.. routes.Select(route => (Func<Task<double>>)(() => Measure.RequestsPerSecondAsync(address, $"/{route}", Callers)))]);
        Console.WriteLine();
        Console.WriteLine($"| route, {Callers} callers | requests/s | of unlimited | of raw INCR |");
        Console.WriteLine("|---|---|---|---|");
        foreach (var (route, rate) in routes.Zip(perSecond))
        {
            Console.WriteLine($"| {route} | {rate:N0} | {rate / perSecond[0]:F2} | {rate / perSecond[1]:F2} |");
        }

        var limiter = app.Services.GetRequiredService<RedisRateLimiter>();
        var policies = app.Services.GetRequiredService<RateLimitPolicies>();
        var state = app.Services.GetRequiredService<RedisConnections>().State;
        PermitRequest[][] demands = [.. Algorithms.Select(name => Demands(name)), Demands(Algorithm.FixedWindow, Algorithm.TokenBucket)];
        perSecond = await Measure.SideBySideAsync([
            () => Measure.PerSecondAsync(Callers, () => state.StringIncrementAsync($"{prefix}:raw")),
            .. demands.Select(demand => (Func<Task<double>>)(
                () => Measure.PerSecondAsync(Callers, () => limiter.DecideAsync(demand, CancellationToken.None)))),
        ]);
        Console.WriteLine();
        Console.WriteLine($"| decision, {Callers} callers | per second | of raw INCR |");
        Console.WriteLine("|---|---|---|");
        foreach (var (name, rate) in Algorithms.Prepend("raw INCR").Append("two policies").Zip(perSecond))
        {
            Console.WriteLine($"| {name} | {rate:N0} | {rate / perSecond[0]:F2} |");
        }

        await app.StopAsync();

        PermitRequest[] Demands(params string[] names) =>
            [
                .. names.Select(name => policies.Find(name)!).Select(
                    policy => new PermitRequest(policy, policy.Key(prefix, "ip:203.0.113.7"), 1)),
            ];
    }

    private static IEnumerable<KeyValuePair<string, string?>> Policy(string name, string algorithm, int limit, string window) =>
    [
        new($"RateLimits:Policies:{name}:Algorithm", algorithm),
        new($"RateLimits:Policies:{name}:Limit", $"{limit}"),
        new($"RateLimits:Policies:{name}:Window", window),
    ];
}
