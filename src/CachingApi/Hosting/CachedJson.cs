using System.Globalization;
using System.IO.Hashing;
using System.Net.Mime;
using CachingApi.Caching;
using Microsoft.Net.Http.Headers;

namespace CachingApi.Hosting;

/// <summary>
/// A cached answer over HTTP: its bytes as they are stored, with ETag, 304, Age, Cache-Control (RFC 9110, 9111) and
/// Cache-Status (RFC 9211).
/// </summary>
/// <param name="cacheControl">What the caller, and caches between, may do with it.</param>
internal sealed class CachedJson(CacheResult result, string cacheControl) : IResult
{
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

        var etag = ETags.Of(result.Entry);
        response.Headers.ETag = etag.ToString();
        if (ETags.Matches(request.Headers.IfNoneMatch, etag))
        {
            response.StatusCode = StatusCodes.Status304NotModified;
            return;
        }

        response.ContentType = MediaTypeNames.Application.Json;
        response.ContentLength = result.Entry.Body.Length;
        await response.Body.WriteAsync(result.Entry.Body, httpContext.RequestAborted);
    }

    private string CacheStatus(DateTimeOffset now)
    {
        var ttl = Math.Floor((result.Entry.FreshUntil - now).TotalSeconds).ToString(CultureInfo.InvariantCulture);
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

    private static string Seconds(TimeSpan age) => Math.Max(0, Math.Floor(age.TotalSeconds)).ToString(CultureInfo.InvariantCulture);
}

/// <summary>Entity tags (RFC 9110, section 8.8.3): <c>"v&lt;version&gt;"</c>, or a hash of the body where there is no version.</summary>
internal static class ETags
{
    public static EntityTagHeaderValue Of(long version) => new(string.Create(CultureInfo.InvariantCulture, $"\"v{version}\""));

    public static EntityTagHeaderValue Of(CacheEntry entry) =>
        entry.Version > 0 ? Of(entry.Version) : new($"\"{XxHash128.HashToUInt128(entry.Body.Span):x32}\"");

    /// <summary>Whether <c>If-None-Match</c> names this tag (weak comparison).</summary>
    public static bool Matches(Microsoft.Extensions.Primitives.StringValues ifNoneMatch, EntityTagHeaderValue etag) =>
        ifNoneMatch.Count > 0
        && EntityTagHeaderValue.TryParseList(ifNoneMatch, out var tags)
        && tags.Any(tag => tag.Equals(EntityTagHeaderValue.Any) || tag.Compare(etag, useStrongComparison: false));

    /// <summary>
    /// The versions that <c>If-Match</c> allows; <c>null</c> where any is allowed. Tags that are weak, malformed or not ours
    /// allow nothing, so a precondition that cannot be read never counts as met.
    /// </summary>
    public static long[]? Versions(string? ifMatch)
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
            : [.. tags.Where(tag => !tag.IsWeak).Select(tag => Version(tag.Tag.Value)).OfType<long>()];
    }

    private static long? Version(string? tag) =>
        tag is ['"', 'v', .. var digits, '"'] && long.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var version)
            ? version
            : null;
}
