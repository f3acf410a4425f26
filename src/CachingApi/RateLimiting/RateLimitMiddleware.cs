using System.Globalization;
using CachingApi.Storage;

namespace CachingApi.RateLimiting;

/// <summary>Limits requests by the metadata of their endpoint: policy, partition, decision, headers; 429 for who is denied.</summary>
internal sealed class RateLimitMiddleware(RequestDelegate next, RateLimitPolicies policies, RateLimiter limiter)
{
    public async Task InvokeAsync(HttpContext context)
    {
        var limits = context.GetEndpoint()?.Metadata.GetOrderedMetadata<RateLimit>() ?? [];
        if (limits.Count == 0 || !policies.Enabled)
        {
            await next(context);
            return;
        }

        var named = new RateLimitPolicy[limits.Count];
        for (var index = 0; index < named.Length; index++)
        {
            if (policies.Find(limits[index].Policy ?? context.GetRouteValue("policy") as string ?? "") is not { } policy)
            {
                await next(context); // a name that the request has made up
                return;
            }

            named[index] = policy;
        }

        var decision = await DecideAsync(context, limits, named);
        context.Features.Set(decision);
        Describe(context.Response, RateLimitHeaders.Policies(named), RateLimitHeaders.Limits(decision));
        await (decision.Verdict switch
        {
            Verdict.Allowed => next(context),
            Verdict.Denied => RefuseAsync(context, decision),
            _ => throw new UnavailableException("The store of the rate limits"),
        });
    }

    /// <remarks>Partitions are found one by one, so that who is denied by address costs no session look-up and no reading of the body.</remarks>
    private async Task<Decision> DecideAsync(HttpContext context, IReadOnlyList<RateLimit> limits, RateLimitPolicy[] named)
    {
        var demands = new Demand[named.Length];
        for (var index = 0; index < named.Length; index++)
        {
            var (limit, policy) = (limits[index], named[index]);
            var partition = await Partition.OfAsync(context, policy.Partition, limit);
            demands[index] = new(policy, policy.Key(limiter.KeyPrefix, partition), limit.Cost);
            if (limiter.Recall(demands[index]) is { } refusal)
            {
                return refusal;
            }
        }

        return await limiter.DecideAsync(demands, context.RequestAborted);
    }

    /// <summary>
    /// Last, so that the headers are also on an error, which begins its answer anew. An answer that shared caches may keep has none: a
    /// cache would show one client's permits to others.
    /// </summary>
    private static void Describe(HttpResponse response, string policies, string limits) => response.OnStarting(() =>
    {
        if (response.GetTypedHeaders().CacheControl is { Public: true })
        {
            return Task.CompletedTask;
        }

        response.Headers["RateLimit-Policy"] = policies;
        if (limits.Length > 0)
        {
            response.Headers["RateLimit"] = limits;
        }

        return Task.CompletedTask;
    });

    private static Task RefuseAsync(HttpContext context, Decision decision)
    {
        var seconds = RateLimitHeaders.RetryAfter(decision);
        context.Response.Headers.RetryAfter = seconds.ToString(CultureInfo.InvariantCulture);
        context.Response.Headers.CacheControl = "no-store";
        return Results.Problem(
            statusCode: StatusCodes.Status429TooManyRequests,
            detail: $"Too many requests; come back in {seconds} s.",
            extensions: new Dictionary<string, object?>
            {
                ["violated-policies"] = RateLimitHeaders.Denied(decision).Select(policy => policy.Demand.Policy.Name).ToArray(),
            }).ExecuteAsync(context);
    }
}
