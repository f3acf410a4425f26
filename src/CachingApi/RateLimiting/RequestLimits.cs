using System.Globalization;
using CachingApi.Storage;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Http.HttpResults;

namespace CachingApi.RateLimiting;

/// <summary>
/// Decides on a request by the limits in its endpoint's metadata: the middleware by most of them, the endpoint by those that it defers.
/// </summary>
internal sealed class RequestLimits(RateLimitPolicies policies, RateLimiter limiter)
{
    /// <summary>Policies with this prefix exist to be tried out; all others limit a route of the service.</summary>
    private const string DemoPrefix = "demo-";

    /// <summary>Acquires permits of the limits that the endpoint defers: see <see cref="RateLimitExtensions.DeferRateLimit"/>.</summary>
    /// <returns>The answer to a request that is denied; <c>null</c> if it may go on.</returns>
    /// <exception cref="UnavailableException">Redis does not answer, and a policy lets no request in without it.</exception>
    public Task<ProblemHttpResult?> AcquireDeferredAsync(HttpContext context) => AcquireAsync(
        context, [.. context.GetEndpoint()?.Metadata.GetOrderedMetadata<DeferredRateLimit>().Select(deferred => deferred.Limit) ?? []]);

    /// <summary>Acquires permits of the endpoint's other limits.</summary>
    /// <inheritdoc cref="AcquireDeferredAsync"/>
    public Task<ProblemHttpResult?> AcquireAsync(HttpContext context) =>
        AcquireAsync(context, context.GetEndpoint()?.Metadata.GetOrderedMetadata<RateLimit>() ?? []);

    private async Task<ProblemHttpResult?> AcquireAsync(HttpContext context, IReadOnlyList<RateLimit> limits)
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
                return null; // there is no policy of this name
            }

            named[index] = policy;
        }

        if (IsProbe(limits[0], named[0]) && CrossSite.IsSource(context.Request))
        {
            return TypedResults.Problem("Another site may not use up permits of this policy.", statusCode: StatusCodes.Status403Forbidden);
        }

        var decision = (await DecideAsync(context, limits, named)) with { Required = named };
        Describe(context, decision);
        return decision.Verdict switch
        {
            Verdict.Allowed => null,
            Verdict.Denied => Refusal(context, decision),
            _ => throw new UnavailableException("The store of the rate limits"),
        };
    }

    /// <remarks>
    /// Partitions are found one by one, so that a client that is denied by address costs no session look-up and no reading of the body.
    /// </remarks>
    private async Task<Decision> DecideAsync(HttpContext context, IReadOnlyList<RateLimit> limits, RateLimitPolicy[] named)
    {
        var demands = new Demand[named.Length];
        for (var index = 0; index < named.Length; index++)
        {
            var (limit, policy) = (limits[index], named[index]);
            var partition = await Partition.OfAsync(context, policy.Partition, limit);
            if (IsProbe(limit, policy))
            {
                partition = $"probe:{partition}";
            }

            demands[index] = new(policy, policy.Key(limiter.KeyPrefix, partition), limit.Cost);
            if (limiter.Recall(demands[index]) is { } refusal)
            {
                return refusal;
            }
        }

        return await limiter.DecideAsync(demands, context.RequestAborted);
    }

    /// <summary>
    /// Whether <c>GET /limits/{policy}</c> asks for a policy that limits another route. Those requests have permits of their own: with
    /// the route's, an image on any page could use up a visitor's logins.
    /// </summary>
    private static bool IsProbe(RateLimit limit, RateLimitPolicy policy) =>
        limit.Policy is null && !policy.Name.StartsWith(DemoPrefix, StringComparison.Ordinal);

    /// <summary>Writes the headers last, so that they are also on an error, which begins its answer anew.</summary>
    private static void Describe(HttpContext context, Decision decision)
    {
        var before = context.Features.Get<Decision>();
        if (before is not null)
        {
            // The endpoint has acquired more: of a policy in both, the later state holds.
            var later = decision.Policies.Select(policy => policy.Demand.Policy).ToHashSet();
            PolicyDecision[] others = [.. before.Policies.Where(policy => !later.Contains(policy.Demand.Policy))];
            decision = decision with { Earlier = before with { Policies = others } };
        }

        context.Features.Set(decision);
        if (before is null)
        {
            context.Response.OnStarting(WriteHeaders, context);
        }
    }

    /// <remarks>An answer that shared caches may keep has none: a cache would show one client's permits to others.</remarks>
    private static Task WriteHeaders(object state)
    {
        var context = (HttpContext)state;
        if (context.Response.GetTypedHeaders().CacheControl is { Public: true })
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

    private static ProblemHttpResult Refusal(HttpContext context, Decision decision)
    {
        var seconds = RateLimitHeaders.RetryAfter(decision);
        context.Response.Headers.RetryAfter = seconds.ToString(CultureInfo.InvariantCulture);
        context.Response.Headers.CacheControl = "no-store";
        return TypedResults.Problem(
            statusCode: StatusCodes.Status429TooManyRequests,
            detail: $"Too many requests; come back in {seconds} s.",
            extensions: new Dictionary<string, object?>
            {
                ["violated-policies"] = RateLimitHeaders.Denied(decision).Select(policy => policy.Demand.Policy.Name).ToArray(),
            });
    }
}
