using System.Globalization;
using CachingApi.Redis;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Http.HttpResults;

namespace CachingApi.RateLimiting;

/// <summary>
/// Decides on a request by the limits in its endpoint's metadata. The middleware applies most limits; the endpoint applies the ones that
/// it defers.
/// </summary>
internal sealed class RequestLimits(RateLimitPolicies policies, RedisRateLimiter limiter)
{
    /// <summary>Whether a policy is for experiments only; all others limit a route of the service.</summary>
    public static bool IsDemo(string policy) => policy.StartsWith("demo-", StringComparison.Ordinal);

    /// <summary>Acquires permits of limits that the endpoint defers: see <see cref="RateLimitExtensions.DeferRateLimit"/>.</summary>
    /// <param name="names">The policies of those limits.</param>
    /// <returns>The answer to a request that is denied; <c>null</c> if it may go on.</returns>
    /// <exception cref="UnavailableException">Redis does not answer, and a policy admits no request without it.</exception>
    public Task<ProblemHttpResult?> AcquireDeferredAsync(HttpContext context, params string[] names) =>
        AcquireAsync(context, Deferred(context, names));

    /// <summary>
    /// As <see cref="AcquireDeferredAsync"/>, for work that does not change the answer: the answer has no headers of these limits.
    /// </summary>
    /// <returns>Whether all permits were acquired.</returns>
    public async Task<bool> TryAcquireDeferredAsync(HttpContext context, params string[] names)
    {
        var limits = Deferred(context, names);
        return Named(context, limits) is not { } named || (await DecideAsync(context, limits, named)).Outcome is PermitOutcome.Allowed;
    }

    /// <summary>Acquires permits of the endpoint's other limits.</summary>
    /// <returns>The answer to a request that is denied; <c>null</c> if it may go on.</returns>
    /// <exception cref="UnavailableException">Redis does not answer, and a policy admits no request without it.</exception>
    public Task<ProblemHttpResult?> AcquireAsync(HttpContext context) =>
        AcquireAsync(context, Limits(context));

    /// <summary>
    /// The permits that a request will need if its session exists, for the call that reads the session; <c>null</c> if it needs none, if
    /// it has acquired them, or if they depend on more than the user.
    /// </summary>
    /// <param name="userId">The user that the token names.</param>
    public PermitsAhead? Ahead(HttpContext context, Guid userId)
    {
        var limits = Limits(context);
        if (context.Features.Get<Decision>() is not null || Named(context, limits) is not { } named)
        {
            return null;
        }

        var requests = new PermitRequest[named.Length];
        for (var index = 0; index < named.Length; index++)
        {
            if (Partition.Of(context, named[index].Partition, userId) is not { } partition)
            {
                return null;
            }

            requests[index] = RequestFor(limits[index], named[index], partition);
        }

        return limiter.Ahead(requests);
    }

    private async Task<ProblemHttpResult?> AcquireAsync(HttpContext context, IReadOnlyList<RateLimit> limits)
    {
        if (Named(context, limits) is not { } named)
        {
            return null;
        }

        var decision = (await DecideAsync(context, limits, named)) with { Required = named };
        Describe(context, decision);
        return decision.Outcome switch
        {
            PermitOutcome.Allowed => null,
            PermitOutcome.Denied => Rejected(context, decision),
            _ => throw new UnavailableException("The store of the rate limits"),
        };
    }

    private static IReadOnlyList<RateLimit> Limits(HttpContext context) =>
        context.GetEndpoint()?.Metadata.GetOrderedMetadata<RateLimit>() ?? [];

    private static RateLimit[] Deferred(HttpContext context, string[] names) =>
    [
        .. context.GetEndpoint()?.Metadata.GetOrderedMetadata<DeferredRateLimit>()
            .Select(deferred => deferred.Limit).Where(limit => names.Contains(limit.Policy)) ?? [],
    ];

    /// <summary>The policies of limits; <c>null</c> if there are no permits to acquire, or if a name has no policy.</summary>
    private RateLimitPolicy[]? Named(HttpContext context, IReadOnlyList<RateLimit> limits)
    {
        if (limits.Count == 0 || !policies.Enabled)
        {
            return null;
        }

        var named = new RateLimitPolicy[limits.Count];
        for (var index = 0; index < named.Length; index++)
        {
            if (policies.Find(limits[index].Policy ?? context.GetRouteValue("policy") as string ?? "") is not { } policy)
            {
                return null;
            }

            named[index] = policy;
        }

        return named;
    }

    /// <remarks>
    /// Partitions are found one by one. So if a client is denied by address, its session is not looked up and its body is not read.
    /// </remarks>
    private async Task<Decision> DecideAsync(HttpContext context, IReadOnlyList<RateLimit> limits, RateLimitPolicy[] named)
    {
        var requests = new PermitRequest[named.Length];
        for (var index = 0; index < named.Length; index++)
        {
            var partition = await Partition.OfAsync(context, named[index].Partition, limits[index]);
            requests[index] = RequestFor(limits[index], named[index], partition);
            if (limiter.Recall(requests[index]) is { } rejection)
            {
                return rejection;
            }
        }

        if (context.Features.Get<PermitsAhead>() is { } ahead)
        {
            context.Features.Set<PermitsAhead>(null);
            if (ahead.Answers.Length > 0 && ahead.Requests.AsSpan().SequenceEqual(requests))
            {
                return limiter.Decide(ahead);
            }
        }

        return await limiter.DecideAsync(requests, context.RequestAborted);
    }

    private PermitRequest RequestFor(RateLimit limit, RateLimitPolicy policy, string partition) =>
        policy.RequestFor(limiter.KeyPrefix, IsProbe(limit, policy) ? $"probe:{partition}" : partition, limit.Cost);

    /// <summary>
    /// Whether <c>GET /limits/{policy}</c> requests a permit of a policy that limits another route. Those requests have their own permits:
    /// if they used the route's, an image on any page could use up a visitor's logins.
    /// </summary>
    private static bool IsProbe(RateLimit limit, RateLimitPolicy policy) => limit.Policy is null && !IsDemo(policy.Name);

    /// <summary>Writes the headers last, so that an error, which resets the response, has them as well.</summary>
    private static void Describe(HttpContext context, Decision decision)
    {
        var before = context.Features.Get<Decision>();
        if (before is not null)
        {
            // The endpoint has acquired further permits: if a policy is in both decisions, the later state counts.
            var later = decision.Policies.Select(policy => policy.Request.Policy).ToHashSet();
            PolicyDecision[] others = [.. before.Policies.Where(policy => !later.Contains(policy.Request.Policy))];
            decision = decision with { Earlier = before with { Policies = others } };
        }

        context.Features.Set(decision);
        if (before is null)
        {
            context.Response.OnStarting(WriteHeaders, context);
        }
    }

    /// <remarks>A publicly cacheable answer has no such headers: a cache would show one client's permits to others.</remarks>
    private static Task WriteHeaders(object state)
    {
        var context = (HttpContext)state;
        if (context.Response.Headers.CacheControl.ToString().StartsWith("public", StringComparison.Ordinal))
        {
            return Task.CompletedTask;
        }

        var decision = context.Features.GetRequiredFeature<Decision>();
        context.Response.Headers["RateLimit-Policy"] = RateLimitHeaders.Policies(decision);
        if (RateLimitHeaders.Limits(decision) is { Length: > 0 } limits)
        {
            context.Response.Headers["RateLimit"] = limits;
        }

        return Task.CompletedTask;
    }

    private static ProblemHttpResult Rejected(HttpContext context, Decision decision)
    {
        var seconds = RateLimitHeaders.RetryAfter(decision);
        context.Response.Headers.RetryAfter = seconds.ToString(CultureInfo.InvariantCulture);
        context.Response.Headers.CacheControl = "no-store";
        return TypedResults.Problem(
            statusCode: StatusCodes.Status429TooManyRequests,
            detail: $"Too many requests: try again in {seconds} s.",
            extensions: new Dictionary<string, object?>
            {
                ["violated-policies"] = RateLimitHeaders.Denied(decision).Select(policy => policy.Request.Policy.Name).ToArray(),
            });
    }
}
