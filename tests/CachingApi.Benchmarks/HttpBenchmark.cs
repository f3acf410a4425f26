using System.Net.Mime;
using CachingApi.Caching;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Sessions;
using CachingApi.Storage;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Benchmarks;

/// <summary>
/// A hit over HTTP with all that the service puts around it (headers, metrics, who is calling; limits off), with and without its line
/// in the log, beside endpoints that do nothing but send the same bytes, or ask Redis for them first.
/// </summary>
internal static class HttpBenchmark
{
    private const int Callers = 64;

    private static readonly Thing Hot = new(new string('x', 500), 1);

    public static async Task RunAsync(string postgres, string redisConnection)
    {
        var console = Console.Out;
        await using var nowhere = new StreamWriter(new FileStream("/dev/null", FileMode.Open, FileAccess.Write)) { AutoFlush = true };
        Console.SetOut(nowhere);
        try
        {
            await using var service = await ServiceAsync(postgres, redisConnection, "Information");
            await using var quiet = await ServiceAsync(postgres, redisConnection, "Error");
            await using var bare = await BareAsync(service);
            (string Name, WebApplication App, string Path)[] routes =
            [
                ("the bytes alone", bare, "/bytes"),
                ("memory hit", service, "/memory"),
                ("memory hit, no log", quiet, "/memory"),
                ("raw GET, and its bytes", bare, "/get"),
                ("Redis hit", service, "/redis"),
                ("Redis hit, no log", quiet, "/redis"),
            ];
            var perSecond = await Measure.SideBySideAsync(
                [.. routes.Select(route => (Func<Task<double>>)(() => Measure.RequestsPerSecondAsync(new(route.App.Urls.Single()), route.Path, Callers)))]);

            console.WriteLine();
            console.WriteLine($"| over HTTP, {Callers} callers | requests/s | of its bare endpoint |");
            console.WriteLine("|---|---|---|");
            for (var route = 0; route < routes.Length; route++)
            {
                console.WriteLine($"| {routes[route].Name} | {perSecond[route]:N0} | {perSecond[route] / perSecond[route / 3 * 3]:F2} |");
            }
        }
        finally
        {
            Console.SetOut(console);
        }
    }

    /// <summary>The service without its features.</summary>
    private static async Task<WebApplication> ServiceAsync(string postgres, string redisConnection, string logLevel)
    {
        var builder = WebApplication.CreateBuilder(new WebApplicationOptions { ContentRootPath = AppContext.BaseDirectory });
        builder.Configuration.AddInMemoryCollection([
            new("ConnectionStrings:Postgres", postgres),
            new("ConnectionStrings:Redis", redisConnection),
            new("Redis:KeyPrefix", $"bench-{Guid.NewGuid():N}"),
            new("Database:ChangeCapture", "false"),
            new("RateLimits:Enabled", "false"),
            new("Serilog:MinimumLevel:Default", logLevel),
        ]);
        builder.WebHost.UseUrls("http://127.0.0.1:0");
        builder.AddApiConventions();
        builder.Services.AddPostgres().AddRedis().AddCaching().AddRateLimits().AddSessions().AddKnownProxies().AddOperations(builder.Configuration).AddApiDocs();
        builder.Services.Remove(builder.Services.Single(service => service.ImplementationType == typeof(Migrations)));

        var app = builder.Build();
        app.UseKnownProxies();
        app.UseApiConventions();
        app.UseLivePage();
        app.UseApiDocs();
        app.UseRateLimits();
        app.UseSessions();
        foreach (var (path, memoryTtl) in new[] { ("memory", TimeSpan.FromMinutes(10)), ("redis", TimeSpan.Zero) })
        {
            var key = new Cache<Thing>(path, new() { MemoryTtl = memoryTtl }, BenchJson.Default.Thing, thing => thing.Version).Key("hot");
            app.MapGet($"/{path}", async (CacheAside engine, CancellationToken cancel) =>
                new CachedJson(await engine.GetAsync(key, _ => Task.FromResult<Thing?>(Hot), cancel), "public, max-age=60"))
                .AllowAnonymous().RequireRateLimit("default");
        }

        await app.StartAsync();
        return app;
    }

    private static async Task<WebApplication> BareAsync(WebApplication service)
    {
        var (redis, key) = (service.Services.GetRequiredService<Redis>(), $"bench-{Guid.NewGuid():N}");
        var bytes = System.Text.Json.JsonSerializer.SerializeToUtf8Bytes(Hot, BenchJson.Default.Thing);
        await redis.Cache.StringSetAsync(key, bytes, TimeSpan.FromMinutes(10));

        var builder = WebApplication.CreateEmptyBuilder(new());
        builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
        builder.Services.AddRouting();
        var app = builder.Build();
        app.MapGet("/bytes", (HttpContext context) => SendAsync(context, bytes));
        app.MapGet("/get", async (HttpContext context) => await SendAsync(context, (byte[])(await redis.Cache.StringGetAsync(key))!));
        await app.StartAsync();
        return app;
    }

    private static Task SendAsync(HttpContext context, byte[] bytes)
    {
        context.Response.ContentType = MediaTypeNames.Application.Json;
        context.Response.ContentLength = bytes.Length;
        return context.Response.Body.WriteAsync(bytes).AsTask();
    }
}
