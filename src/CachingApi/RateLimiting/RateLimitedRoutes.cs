using Microsoft.Extensions.Options;

namespace CachingApi.RateLimiting;

/// <summary>Compares the routes with the policies: a route that names no policy that there is stops the start, not its first request.</summary>
internal sealed class RateLimitedRoutes : IValidateOptions<RateLimitOptions>
{
    /// <summary>Those of the application, which fill after this is set.</summary>
    public ICollection<EndpointDataSource> Sources { get; set; } = [];

    public ValidateOptionsResult Validate(string? name, RateLimitOptions options)
    {
        var problems = Sources.SelectMany(source => source.Endpoints)
            .SelectMany(endpoint => endpoint.Metadata.OfType<RateLimit>().Select(limit => Problem(endpoint, limit, options)))
            .OfType<string>()
            .ToArray();
        return problems.Length == 0 ? ValidateOptionsResult.Success : ValidateOptionsResult.Fail(problems);
    }

    private static string? Problem(Endpoint endpoint, RateLimit limit, RateLimitOptions options) =>
        limit.Policy is null ? null
        : !options.Policies.TryGetValue(limit.Policy, out var policy) ? $"RateLimits:Policies:{limit.Policy}: {endpoint.DisplayName} needs this policy"
        : limit.Cost > policy.Limit ? $"RateLimits:Policies:{limit.Policy}:Limit: {endpoint.DisplayName} costs {limit.Cost}"
        : null;
}
