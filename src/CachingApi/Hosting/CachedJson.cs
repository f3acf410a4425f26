using System.Globalization;
using System.IO.Hashing;
using System.Net.Mime;
using CachingApi.Caching;
using CachingApi.Redis;
using Microsoft.Net.Http.Headers;

namespace CachingApi.Hosting;

/// <summary>
/// A cached answer over HTTP: the stored bytes, with ETag, 304, Age, Cache-Control (RFC 9110, 9111) and Cache-Status (RFC 9211).
/// </summary>
/// <param name="cacheControl">The header Cache-Control for the client and for caches between.</param>
/// <param name="derived">The body and its ETag, if the body is derived from the stored one.</param>
/// <param name="shape">The part of a version's ETag that depends on the shape of the type: see <see cref="ETags"/>.</param>
internal sealed class CachedJson(CacheResult result, string cacheControl, (byte[] Body, string ETag)? derived = null, string shape = "")
    : IResult
{
    /// <summary>
    /// The Cache-Control of an answer that any cache may keep (RFC 9111, 5861). Its times count from the creation of the entry, as Age
    /// does: the client subtracts the two.
    /// </summary>
    public static string Public(CacheEntry entry, CacheOptions settings)
    {
        var fresh = $"public, max-age={Seconds(entry.FreshUntil - entry.Created)}";
        var revalidate = settings.Ttl < settings.StaleFor ? settings.Ttl : settings.StaleFor;
        return entry.Kind is EntryKind.Negative
            ? fresh
            : $"{fresh}, stale-while-revalidate={Seconds(revalidate)}, stale-if-error={Seconds(settings.StaleFor)}";
    }

    public async Task ExecuteAsync(HttpContext httpContext)
    {
        var (request, response) = (httpContext.Request, httpContext.Response);
        var now = httpContext.RequestServices.GetRequiredService<TimeProvider>().GetUtcNow();

        response.Headers["Cache-Status"] = CacheStatus(now);
        response.Headers.Age = Seconds(now - result.Entry.Created);
        response.Headers.CacheControl = cacheControl;
        if (!result.Found)
        {
            await Results.Problem(statusCode: StatusCodes.Status404NotFound).ExecuteAsync(httpContext);
            return;
        }

        var body = derived?.Body ?? result.Entry.Body;
        var etag = derived?.ETag ?? ETags.Of(result.Entry, shape);
        response.Headers.ETag = etag;
        if (ETags.Matches(request.Headers.IfNoneMatch, etag))
        {
            response.StatusCode = StatusCodes.Status304NotModified;
            return;
        }

        response.ContentType = MediaTypeNames.Application.Json;
        response.ContentLength = body.Length;
        await response.Body.WriteAsync(body, httpContext.RequestAborted);
    }

    private string CacheStatus(DateTimeOffset now)
    {
        var ttl = ((long)Math.Floor((result.Entry.FreshUntil - now).TotalSeconds)).ToString(CultureInfo.InvariantCulture);
        return result.Outcome switch
        {
            CacheOutcome.MemoryHit => $"CachingApi; hit; ttl={ttl}; detail=memory",
            CacheOutcome.RedisHit => $"CachingApi; hit; ttl={ttl}; detail=redis",
            CacheOutcome.StaleWhileRevalidate => $"CachingApi; hit; ttl={ttl}; detail=stale-while-revalidate",
            CacheOutcome.StaleIfError => $"CachingApi; hit; ttl={ttl}; detail=stale-if-error",
            CacheOutcome.Bypass => $"CachingApi; fwd=miss{Collapsed}; detail=redis-unavailable",
            CacheOutcome.Refreshed => $"CachingApi; fwd=stale{Stored}{Collapsed}",
            _ => $"CachingApi; fwd=uri-miss{Stored}{Collapsed}",
        };
    }

    private string Stored => result.Stored ? "; stored" : "";

    private string Collapsed => result.Collapsed ? "; collapsed" : "";

    private static string Seconds(TimeSpan age) => ((long)Math.Max(0, age.TotalSeconds)).ToString(CultureInfo.InvariantCulture);
}

/// <summary>Marks a route whose answers are cached. Its error answers also have a Cache-Status, for example if a load failed.</summary>
internal sealed record CachedRoute
{
    /// <summary>The header if nothing was cached and the source gave no usable answer.</summary>
    public static string CacheStatus(UnavailableException outage) =>
        outage.Status is { } status
            ? string.Create(CultureInfo.InvariantCulture, $"CachingApi; fwd=uri-miss; fwd-status={status}")
            : "CachingApi; fwd=uri-miss; detail=unavailable";
}

internal static class CachedRoutes
{
    public static TBuilder Cached<TBuilder>(this TBuilder route) where TBuilder : IEndpointConventionBuilder =>
        route.WithMetadata(new CachedRoute());
}

/// <summary>Entity tags (RFC 9110, section 8.8.3): <c>"v&lt;version&gt;"</c>, or a hash of the body if there is no version.</summary>
/// <remarks>
/// A strong tag identifies one sequence of bytes. So if a build changes the shape of the type, its tags differ from those of earlier
/// builds: <c>"v&lt;version&gt;-&lt;shape&gt;"</c>. Otherwise a client that has the old bytes would receive 304.
/// </remarks>
internal static class ETags
{
    /// <summary>The part of a tag that depends on the shape of the type; empty for the shape that the HTTP contract describes.</summary>
    public static string Shape(ulong shape, ulong contract) => shape == contract ? "" : $"-{shape:x16}";

    public static string Of(long version, string shape) => string.Create(CultureInfo.InvariantCulture, $"\"v{version}{shape}\"");

    public static string Of(CacheEntry entry, string shape) => entry.Version > 0 ? Of(entry.Version, shape) : Of(entry.Body);

    public static string Of(ReadOnlyMemory<byte> body) => $"\"{XxHash128.HashToUInt128(body.Span):x32}\"";

    /// <summary>Whether <c>If-None-Match</c> names this tag (weak comparison).</summary>
    public static bool Matches(Microsoft.Extensions.Primitives.StringValues ifNoneMatch, string etag) =>
        ifNoneMatch.Count > 0
        && EntityTagHeaderValue.TryParseList(ifNoneMatch, out var tags)
        && tags.Any(tag => tag.Equals(EntityTagHeaderValue.Any) || tag.Tag.Equals(etag, StringComparison.Ordinal));

    /// <summary>
    /// The versions that <c>If-Match</c> allows; <c>null</c> if any is allowed. Tags that are weak, malformed, foreign or of another shape
    /// allow no version, so a precondition that cannot be read never counts as met.
    /// </summary>
    public static long[]? Versions(string? ifMatch, string shape)
    {
        if (ifMatch is null)
        {
            return null;
        }

        if (!EntityTagHeaderValue.TryParseList([ifMatch], out var tags))
        {
            return [];
        }

        return tags.Any(tag => tag.Equals(EntityTagHeaderValue.Any))
            ? null
            : [.. tags.Where(tag => !tag.IsWeak).Select(tag => Version(tag.Tag.Value, shape)).OfType<long>()];
    }

    private static long? Version(string? tag, string shape) =>
        tag is ['"', 'v', .. var rest, '"'] && rest.EndsWith(shape, StringComparison.Ordinal)
        && long.TryParse(rest[..^shape.Length], NumberStyles.None, CultureInfo.InvariantCulture, out var version)
            ? version
            : null;
}
