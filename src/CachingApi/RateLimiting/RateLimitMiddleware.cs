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

        var named = limits
            .Select(limit => (Limit: limit, Policy: policies.Find(limit.Policy ?? context.GetRouteValue("policy") as string ?? "")!))
            .Where(named => named.Policy is not null) // one that a request has made up
            .ToArray();
        if (named.Length == 0 || await DecideAsync(context, named) is not { } decision)
        {
            await next(context);
            return;
        }

        context.Features.Set(decision);
        Describe(context.Response, RateLimitHeaders.Policies(named.Select(limit => limit.Policy)), RateLimitHeaders.Limits(decision));
        await (decision.Verdict switch
        {
            Verdict.Allowed => next(context),
            Verdict.Denied => RefuseAsync(context, decision),
            _ => throw new UnavailableException("The store of the rate limits"),
        });
    }

    /// <remarks>Partitions are found one by one, so that who is denied by address costs no session look-up and no reading of the body.</remarks>
    private async Task<Decision?> DecideAsync(HttpContext context, (RateLimit Limit, RateLimitPolicy Policy)[] limits)
    {
        var demands = new Demand[limits.Length];
        for (var index = 0; index < limits.Length; index++)
        {
            var (limit, policy) = limits[index];
            var partition = await Partition.OfAsync(context, policy.Partition, limit);
            demands[index] = new(policy, policy.Key(limiter.KeyPrefix, partition), limit.Cost);
            if (limiter.Recall(demands[index]) is { } refusal)
            {
                return refusal;
            }
        }

        return await limiter.DecideAsync(demands, context.RequestAborted);
    }

    /// <summary>Last, so that the headers are also on an error, which begins its answer anew.</summary>
    private static void Describe(HttpResponse response, string policies, string limits) => response.OnStarting(() =>
    {
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
