using Microsoft.Extensions.Options;

namespace CachingApi.RateLimiting;

/// <summary>
/// Fails startup, not the first request, if a route references an unknown policy or costs more than its limit.
/// </summary>
internal sealed class RateLimitedRoutes : IValidateOptions<RateLimitOptions>
{
    /// <summary>The application's endpoints, which are added after this is set.</summary>
    public ICollection<EndpointDataSource> Sources { get; set; } = [];

    public ValidateOptionsResult Validate(string? name, RateLimitOptions options)
    {
        var problems = Sources.SelectMany(source => source.Endpoints)
            .SelectMany(endpoint => LimitsOf(endpoint)
                .Where(limit => limit.Policy is not null)
                .GroupBy(limit => limit.Policy!, limit => limit.Cost)
                .Select(limits => Problem(endpoint, limits.Key, limits.Sum(), options)))
            .OfType<string>()
            .ToArray();
        return problems.Length == 0 ? ValidateOptionsResult.Success : ValidateOptionsResult.Fail(problems);
    }

    private static IEnumerable<RateLimit> LimitsOf(Endpoint endpoint) =>
        endpoint.Metadata.OfType<RateLimit>().Concat(endpoint.Metadata.OfType<DeferredRateLimit>().Select(deferred => deferred.Limit));

    /// <param name="cost">The maximum cost of a request, including deferred permits.</param>
    private static string? Problem(Endpoint endpoint, string name, int cost, RateLimitOptions options) =>
        !options.Policies.TryGetValue(name, out var policy) ? $"RateLimits:Policies:{name}: {endpoint.DisplayName} needs this policy"
        : cost > policy.Limit ? $"RateLimits:Policies:{name}:Limit: {endpoint.DisplayName} costs {cost}"
        : null;
}
