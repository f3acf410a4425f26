using System.Diagnostics.Metrics;
using CachingApi.Caching.Operations;
using CachingApi.Redis;
using CachingApi.Storage;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Npgsql;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;

namespace CachingApi.Hosting;

/// <summary>Health, metrics and traces, for operators.</summary>
internal static class Operations
{
    public static IServiceCollection AddOperations(this IServiceCollection services, IConfiguration configuration)
    {
        var telemetry = services.AddOpenTelemetry()
            .ConfigureResource(resource => resource.AddService("CachingApi"))
            .WithMetrics(metrics => metrics
                .AddMeter(
                    "CachingApi.*",
                    "Npgsql",
                    "System.Runtime",
                    "Microsoft.AspNetCore.Hosting")
                // In Prometheus, the suffix _count belongs to histograms; promtool reports other uses.
                .AddView("db.client.connection.count", "db.client.connections")
                .AddView(instrument => IsShown(instrument) ? null : MetricStreamConfiguration.Drop)
                .AddPrometheusExporter(prometheus =>
                {
                    prometheus.ScopeInfoEnabled = false;
                    prometheus.ScrapeResponseCacheDurationMilliseconds = 0;
                }));

        // Without a collector, no spans are made.
        if (configuration["OTEL_EXPORTER_OTLP_ENDPOINT"] is { Length: > 0 })
        {
            telemetry.WithTracing(tracing => tracing
                .AddAspNetCoreInstrumentation(requests =>
                {
                    requests.Filter = context => !IsOperation(context.Request.Path);
                    requests.EnrichWithHttpRequest = (span, request) => span.SetTag("url.path", ApiConventions.Shown(request.Path));
                })
                .AddSource(Traces.SourceName, "Npgsql", "System.Net.Http")
                .AddOtlpExporter());
        }

        services.AddSingleton<Readiness>();
        services.AddHealthChecks()
            .AddCheck<PostgresHealth>("postgres", timeout: TimeSpan.FromSeconds(2))
            .AddCheck<RedisHealth>("redis", timeout: TimeSpan.FromSeconds(2));
        return services;
    }

    public static void MapOperations(this WebApplication app)
    {
        app.MapHealthChecks("/health/live", new() { Predicate = _ => false, ResponseWriter = Report })
            .AllowAnonymous().WithMetadata(new HttpMethodMetadata(["GET", "HEAD"]), new OperationsRoute(OnEveryPort: true));
        app.MapMethods("/health/ready", ["GET", "HEAD"], ReadAsync)
            .AllowAnonymous().WithMetadata(new OperationsRoute(OnEveryPort: false)).ExcludeFromDescription();
        app.MapPrometheusScrapingEndpoint("/metrics")
            .AllowAnonymous().WithMetadata(new HttpMethodMetadata(["GET", "HEAD"]), new OperationsRoute(OnEveryPort: false));
    }

    /// <summary>Whether a chart, an alert or the documentation uses an instrument; they use all of the service's own.</summary>
    private static bool IsShown(Instrument instrument) => instrument.Meter.Name switch
    {
        "Npgsql" => instrument.Name is "db.client.operation.duration" or "db.client.connection.count",
        "System.Runtime" => instrument.Name is "dotnet.process.cpu.time" or "dotnet.process.memory.working_set" or "dotnet.gc.pause.time",
        "Microsoft.AspNetCore.Hosting" => instrument.Name is "http.server.request.duration",
        _ => true,
    };

    private static async Task ReadAsync(HttpContext context, Readiness readiness)
    {
        var report = await readiness.ReadAsync();
        context.Response.StatusCode = report.Status is HealthStatus.Unhealthy
            ? StatusCodes.Status503ServiceUnavailable
            : StatusCodes.Status200OK;
        await Report(context, report);
    }

    /// <summary>Requests that monitors repeat every few seconds, which are left out of the log and the traces.</summary>
    public static bool IsOperation(PathString path) =>
        path.StartsWithSegments("/health") || path.StartsWithSegments("/metrics") || path.StartsWithSegments("/cache/stats");

    private static Task Report(HttpContext context, HealthReport report)
    {
        context.Response.Headers.CacheControl = "no-store";
        return context.Response.WriteAsJsonAsync(new Health(
            report.Status.ToString().ToLowerInvariant(),
            report.Entries.ToDictionary(
                check => check.Key, check => check.Value.Description ?? check.Value.Status.ToString().ToLowerInvariant())));
    }

    /// <summary>The readiness, computed at most once a second, even if clients ask for it more often.</summary>
    internal sealed class Readiness(HealthCheckService checks, TimeProvider time)
    {
        private static readonly TimeSpan MaxAge = TimeSpan.FromSeconds(1);

        private readonly Lock _lock = new();
        private Task<HealthReport>? _report;
        private long _begun;

        public Task<HealthReport> ReadAsync()
        {
            lock (_lock)
            {
                if (_report is null || (_report.IsCompleted && time.GetElapsedTime(_begun) >= MaxAge))
                {
                    (_begun, _report) = (time.GetTimestamp(), checks.CheckHealthAsync());
                }

                return _report;
            }
        }
    }

    private sealed record Health(string Status, Dictionary<string, string> Checks);

    /// <summary>Without PostgreSQL, the service still answers from its caches: it is degraded and stays ready.</summary>
    private sealed class PostgresHealth(NpgsqlDataSource postgres) : IHealthCheck
    {
        public async Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default) =>
            await PostgresUp.AnswersAsync(postgres, cancellationToken)
                ? HealthCheckResult.Healthy()
                : HealthCheckResult.Degraded("away: cached data is still served");
    }

    /// <summary>
    /// Without the cache's Redis, the service reads from PostgreSQL; without the state's Redis, it cannot check sessions.
    /// </summary>
    private sealed class RedisHealth(RedisConnections redis, CachingHealth caching) : IHealthCheck
    {
        public async Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default)
        {
            try
            {
                await redis.OnStateAsync(state => state.PingAsync(), cancellationToken);
            }
            catch (UnavailableException)
            {
                return HealthCheckResult.Degraded("away: no session can be checked");
            }

            return await caching.IsRedisUsableAsync(cancellationToken)
                ? HealthCheckResult.Healthy()
                : HealthCheckResult.Degraded("away: reads go to PostgreSQL");
        }
    }
}
