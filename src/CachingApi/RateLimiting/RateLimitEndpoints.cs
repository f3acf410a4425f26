using System.Text.Json.Serialization;
using Microsoft.AspNetCore.Http.HttpResults;

namespace CachingApi.RateLimiting;

/// <summary>A rate limit policy.</summary>
public sealed record LimitPolicy
{
    /// <summary>The policy's name.</summary>
    /// <example>demo-fixed-window</example>
    public required string Policy { get; init; }

    /// <summary><c>fixed-window</c>, <c>sliding-window</c>, <c>sliding-window-counter</c> or <c>token-bucket</c>.</summary>
    /// <example>fixed-window</example>
    public required string Algorithm { get; init; }

    /// <summary>How many permits a window has, or a bucket holds.</summary>
    /// <example>10</example>
    public required long Limit { get; init; }

    /// <summary>The length of a window, or the time in which an empty bucket is full.</summary>
    /// <example>10</example>
    public required long WindowSeconds { get; init; }

    /// <summary>
    /// The property by which requests are counted together: <c>ip</c>, <c>network</c>, <c>user</c>, <c>session</c>, <c>api-key</c> or
    /// <c>account</c>.
    /// </summary>
    /// <example>ip</example>
    public required string Partition { get; init; }
}

/// <summary>The permits that a policy has left for the caller.</summary>
public sealed record LimitState
{
    /// <summary>The policy's name.</summary>
    /// <example>demo-fixed-window</example>
    public required string Policy { get; init; }

    /// <summary><c>fixed-window</c>, <c>sliding-window</c>, <c>sliding-window-counter</c> or <c>token-bucket</c>.</summary>
    /// <example>fixed-window</example>
    public required string Algorithm { get; init; }

    /// <summary>How many permits a window has, or a bucket holds.</summary>
    /// <example>10</example>
    public required long Limit { get; init; }

    /// <summary>How many permits are left after this request.</summary>
    /// <example>9</example>
    public required long Remaining { get; init; }

    /// <summary>Seconds until there are more permits.</summary>
    /// <example>8</example>
    public required long ResetSeconds { get; init; }
}

[JsonSerializable(typeof(LimitPolicy[]))]
[JsonSerializable(typeof(LimitState))]
internal sealed partial class LimitJson : JsonSerializerContext;

internal static class RateLimitEndpoints
{
    public static void MapRateLimits(this IEndpointRouteBuilder routes)
    {
        var limits = routes.MapGroup("/limits")
            .WithTags("Limits")
            .AllowAnonymous()
            .ProducesProblem(StatusCodes.Status503ServiceUnavailable);

        limits.MapGet("/", List).WithName("listRateLimits").RequireRateLimit("default")
            .RefuseOtherSites(context => !CrossSite.IsNavigation(context.Request));
        limits.MapGet("/{policy}", Acquire).WithName("acquirePermit").RequireNamedRateLimit()
            .RefuseOtherSites(context => !RequestLimits.IsDemo(context.GetRouteValue("policy") as string ?? ""))
            .ProducesProblem(StatusCodes.Status404NotFound);
    }

    /// <summary>Lists the policies.</summary>
    internal static Ok<LimitPolicy[]> List(RateLimitPolicies policies) => TypedResults.Ok(policies.All.Select(policy => new LimitPolicy
    {
        Policy = policy.Name,
        Algorithm = policy.Algorithm,
        Limit = policy.Limit,
        WindowSeconds = RateLimitHeaders.Seconds(policy.WindowMilliseconds),
        Partition = policy.Partition,
    }).ToArray());

    /// <summary>Acquires one permit of a policy, and returns how many are left.</summary>
    /// <remarks>
    /// The policies <c>demo-*</c> are for experiments. For any other policy, this route has its own permits: a request here does not use
    /// permits of the routes that the policy limits, and a browser's request for another site returns 403.
    /// </remarks>
    /// <param name="policy" example="demo-fixed-window">The policy's name, such as <c>demo-fixed-window</c>.</param>
    internal static Results<Ok<LimitState>, ProblemHttpResult> Acquire(string policy, RateLimitPolicies policies, HttpContext context)
    {
        context.Response.Headers.CacheControl = "no-store";
        if (policies.Find(policy) is not { } found)
        {
            return TypedResults.Problem("There is no such policy: GET /limits lists them.", statusCode: StatusCodes.Status404NotFound);
        }

        // No permit is spent if limits are turned off, or if an open policy admits the request while Redis is unavailable.
        var spent = context.Features.Get<Decision>()?.Policies.SingleOrDefault();
        return TypedResults.Ok(new LimitState
        {
            Policy = policy,
            Algorithm = found.Algorithm,
            Limit = found.Limit,
            Remaining = spent?.Permits is null ? found.Limit : spent.Value.Left(allowed: true),
            ResetSeconds = RateLimitHeaders.Seconds(spent?.Permits?.Reset ?? 0),
        });
    }
}
