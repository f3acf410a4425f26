namespace CachingApi.RateLimiting;

/// <summary>A limit of an endpoint, in its metadata.</summary>
/// <param name="Policy">The name of the policy; <c>null</c> for the one that the route's <c>policy</c> names.</param>
/// <param name="Cost">How many permits a request spends.</param>
/// <param name="Account">Returns the account that a request is about, for the policies by account.</param>
internal sealed record RateLimit(string? Policy, int Cost, Func<HttpContext, ValueTask<string?>>? Account);

/// <summary>A limit of an endpoint that the endpoint applies itself, not the middleware.</summary>
internal sealed record DeferredRateLimit(RateLimit Limit);

internal static class RateLimitExtensions
{
    /// <summary>Limits an endpoint by a policy of the configuration. A request must meet all limits of its endpoint.</summary>
    public static TBuilder RequireRateLimit<TBuilder>(
        this TBuilder endpoint, string policy, int cost = 1, Func<HttpContext, ValueTask<string?>>? account = null)
        where TBuilder : IEndpointConventionBuilder
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(cost);
        return endpoint.WithMetadata(new RateLimit(policy, cost, account)).ProducesProblem(StatusCodes.Status429TooManyRequests);
    }

    /// <summary>
    /// Limits some requests of an endpoint. The endpoint acquires the permits itself when it knows that a request is one of them
    /// (<see cref="RequestLimits.AcquireDeferredAsync"/>).
    /// </summary>
    public static TBuilder DeferRateLimit<TBuilder>(this TBuilder endpoint, string policy, int cost = 1)
        where TBuilder : IEndpointConventionBuilder =>
        endpoint.WithMetadata(new DeferredRateLimit(new(policy, cost, null))).ProducesProblem(StatusCodes.Status429TooManyRequests);

    /// <summary>Limits an endpoint by the policy that its route names.</summary>
    public static TBuilder RequireNamedRateLimit<TBuilder>(this TBuilder endpoint) where TBuilder : IEndpointConventionBuilder =>
        endpoint.WithMetadata(new RateLimit(null, 1, null)).ProducesProblem(StatusCodes.Status429TooManyRequests);
}
