using System.Diagnostics;

namespace CachingApi.Redis;

/// <summary>
/// The service's own spans: the operations of a request in the cache and in Redis. They hold no keys, because keys contain ids of users
/// and hashed secrets. Work outside of requests (polls, queues) has no trace.
/// </summary>
internal static class Traces
{
    public const string SourceName = "CachingApi";

    private static readonly ActivitySource Source = new(SourceName);

    /// <summary>A step of a request; <c>null</c> if no listener is registered.</summary>
    public static Activity? Start(string name) => Start(name, ActivityKind.Internal);

    /// <summary>An operation on Redis (OpenTelemetry's conventions for database spans).</summary>
    public static Activity? StartRedis(string operation)
    {
        var span = Start("redis", ActivityKind.Client);
        if (span is not null)
        {
            span.DisplayName = $"redis {operation}";
            span.SetTag("db.system.name", "redis").SetTag("db.operation.name", operation);
        }

        return span;
    }

    public static void Failed(this Activity? span, Exception error) =>
        span?.SetTag("error.type", error.GetType().Name).SetStatus(ActivityStatusCode.Error);

    private static Activity? Start(string name, ActivityKind kind) =>
        Source.HasListeners() && Activity.Current is not null ? Source.StartActivity(name, kind) : null;
}
