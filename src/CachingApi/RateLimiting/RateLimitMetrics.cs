using System.Diagnostics.Metrics;

namespace CachingApi.RateLimiting;

/// <summary>
/// Counts decisions by policy: <c>allowed</c> by Redis or from a lease, <c>denied</c> by Redis, <c>denied_local</c> from a rejection in
/// memory, and <c>fallback</c> for all decisions while Redis is unavailable.
/// </summary>
internal sealed class RateLimitMetrics(IMeterFactory meters)
{
    public const string Allowed = "allowed";
    public const string Denied = "denied";
    public const string DeniedLocally = "denied_local";
    public const string Fallback = "fallback";

    private readonly Counter<long> _decisions =
        meters.Create("CachingApi.RateLimiting").CreateCounter<long>(
            "rate_limit.decisions", description: "Decisions on requests by policy and outcome.");

    public void Decided(string policy, string outcome) => _decisions.Add(1, new("policy", policy), new("outcome", outcome));
}
