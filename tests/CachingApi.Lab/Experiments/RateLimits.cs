using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Storage;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using ScottPlot;
using StackExchange.Redis;

namespace CachingApi.Lab.Experiments;

/// <summary>
/// A fixed window forgets at its boundary: a client that sends its requests around the boundary gets twice the limit within one window's
/// length. The other algorithms look back.
/// </summary>
internal static class RateLimits
{
    private const int Limit = 100;
    private const string Plain = "without: INCR and EXPIRE";

    private static readonly TimeSpan Window = TimeSpan.FromSeconds(4);
    private static readonly TimeSpan Quiet = Window * 0.75; // then the client sends all it can
    private static readonly TimeSpan Duration = Window * 3;

    private static readonly (string Algorithm, string Colour, LinePattern Line)[] Algorithms =
    [
        (Algorithm.FixedWindow, Theme.Other, LinePattern.Solid),
        (Algorithm.SlidingWindow, Theme.Ours, LinePattern.Solid),
        (Algorithm.SlidingWindowCounter, Theme.Further, LinePattern.DenselyDashed),
        (Algorithm.TokenBucket, Theme.Ink, LinePattern.Dotted),
    ];

    public static Experiment Experiment { get; } = new("rate-limits", "Rate limits around a window boundary", RunAsync);

    private static async Task<Report> RunAsync(Lab lab, CancellationToken cancel)
    {
        var prefix = $"lab-{Guid.NewGuid():N}"[..20];
        await using var app = await StartAsync(lab, prefix, cancel);
        await using var redis = await ConnectionMultiplexer.ConnectAsync(lab.RedisState).WaitAsync(cancel);
        var limiter = app.Services.GetRequiredService<RedisRateLimiter>();
        var policies = app.Services.GetRequiredService<RateLimitPolicies>();
        var requests = Algorithms.ToDictionary(
            own => own.Algorithm,
            own => policies.Find(own.Algorithm)!.RequestFor(prefix, "ip:203.0.113.7", 1));
        Dictionary<string, Func<Task<long?>>> limits = new()
        {
            [Plain] = () => GrantAsync(redis.GetDatabase(), $"{prefix}:plain"),
        };
        foreach (var (algorithm, request) in requests)
        {
            limits[algorithm] = async () =>
            {
                if (limiter.Recall(request) is not null || await limiter.DecideAsync([request], cancel) is not { Allowed: true } decision)
                {
                    return null;
                }

                // The time by the clock of Redis, which decided. A leased permit is granted in this process.
                return decision.Policies[0].Permits is { Grant.Time: > 0 and var time } ? time : Now();
            };
        }

        // All windows begin at a multiple of their length, so the plain one does as well.
        var length = (long)Window.TotalMilliseconds;
        await Task.Delay((int)(length - Now() % length + 10), cancel);
        var start = Now();
        var granted = (await Task.WhenAll(limits.Select(async own =>
        {
            var times = new List<double>();
            await Load.OpenAsync(time => time < Quiet.TotalSeconds ? 2 : 150, Duration, async _ =>
            {
                if (await own.Value() is { } time)
                {
                    lock (times)
                    {
                        times.Add((time - start) / 1000.0);
                    }
                }
            }, cancel);
            return (own.Key, times);
        }))).ToDictionary(own => own.Key, own => own.times);
        await app.StopAsync(cancel);

        var panel = new Panel($"Requests allowed in the last {Text.Of(Window)}", "time (s)", "allowed requests");
        for (var window = 1; window < 3; window++)
        {
            panel.Moment(window * Window.TotalSeconds, "a window ends");
        }

        panel.Level(Limit, $"the limit, {Limit}");
        var peaks = new Dictionary<string, double>();
        Add(Plain, Color.FromHex(Theme.Without), LinePattern.Dashed);
        foreach (var (algorithm, colour, line) in Algorithms)
        {
            Add(algorithm, Color.FromHex(colour), line);
        }

        // Times without Redis's clock are those of the client, which receives the answer a moment later.
        var strict = peaks.Where(peak => peak.Value <= 1.05 * Limit).Select(peak => peak.Key).ToArray();
        return new()
        {
            Picture = new(panel) { Height = 420 },
            Done = Text.Fold($"""
                A client may send {Limit} requests in {Text.Of(Window)}; it sends few until {Text.Of(Quiet)} and 150 per second from
                then on, and each algorithm decides on all of these requests.
                """),
            Seen = Text.Fold($"""
                The most that were allowed within {Text.Of(Window)} are
                {Text.Each(peaks, own => own.Key, own => Text.Number(own.Value))}.
                """),
            Lesson = Text.Fold($"""
                In every span of that length, {(strict.Length > 0 ? Text.List(strict) : "no algorithm")} kept the limit; sliding-window
                stores the time of each request, the others store one or two numbers, and a token bucket allows its whole bucket and
                what flows in meanwhile.
                """),
            Settings =
            [
                (Plain, "`INCR`, and `EXPIRE` at the first request"),
                ("this library", $"{Text.List(Algorithms.Select(own => own.Algorithm))}, each `Limit` {Limit}, `Window` {Text.Of(Window)}"),
            ],
        };

        void Add(string name, Color colour, LinePattern line)
        {
            var times = granted[name];
            var rolling = Enumerable.Range(0, (int)(Duration.TotalSeconds * 40)).Select(step => step / 40.0)
                .Select(now => (now, (double)times.Count(time => time > now - Window.TotalSeconds && time <= now))).ToArray();
            peaks[name] = rolling.Max(point => point.Item2);
            panel.Line(name, colour, line, rolling);
        }
    }

    /// <summary>The fixed window of most articles.</summary>
    private static async Task<long?> GrantAsync(IDatabase redis, string key)
    {
        var count = await redis.StringIncrementAsync(key);
        if (count == 1)
        {
            await redis.KeyExpireAsync(key, Window);
        }

        return count <= Limit ? Now() : null;
    }

    /// <summary>Unix time in milliseconds.</summary>
    private static long Now() => TimeProvider.System.GetUtcNow().ToUnixTimeMilliseconds();

    private static async Task<WebApplication> StartAsync(Lab lab, string prefix, CancellationToken cancel)
    {
        var builder = WebApplication.CreateEmptyBuilder(new());
        builder.Configuration.AddInMemoryCollection([
            new("ConnectionStrings:Redis", lab.RedisState),
            new("Redis:KeyPrefix", prefix),
            new("Redis:StateDeadline", "00:00:05"),
            new("Serilog:MinimumLevel:Default", "Error"),
            .. Algorithms.SelectMany(own => new KeyValuePair<string, string?>[]
            {
                new($"RateLimits:Policies:{own.Algorithm}:Algorithm", own.Algorithm),
                new($"RateLimits:Policies:{own.Algorithm}:Limit", $"{Limit}"),
                new($"RateLimits:Policies:{own.Algorithm}:Window", $"{Window}"),
            }),
        ]);
        builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
        builder.AddApiConventions();
        builder.Services.AddRouting().AddRedis().AddRateLimits();
        builder.Services.Configure<ConnectionStrings>(builder.Configuration.GetSection("ConnectionStrings"));
        var app = builder.Build();
        await app.StartAsync(cancel);
        return app;
    }
}
