using System.Globalization;

namespace CachingApi.RateLimiting;

/// <summary>
/// The headers <c>RateLimit-Policy</c> and <c>RateLimit</c> (draft-ietf-httpapi-ratelimit-headers-10), lists of structured fields (RFC
/// 9651).
/// </summary>
internal static class RateLimitHeaders
{
    /// <summary>Clients' timers tick every few milliseconds, so a client may retry this much too early.</summary>
    private const long EarlyMilliseconds = 10;

    /// <summary>The policies' quotas: <c>"login";q=10;w=60</c> is 10 permits in a window of 60 seconds.</summary>
    public static string Policies(Decision decision) => decision is { Earlier: null, Required: [var only] }
        ? only.Quota
        : string.Join(", ", All(decision).SelectMany(one => one.Required).Distinct().Select(policy => policy.Quota));

    /// <summary>
    /// The remaining permits: <c>"login";r=7;t=42</c> is 7 permits, and more in 42 seconds. An open policy has no entry while Redis is
    /// unavailable.
    /// </summary>
    public static string Limits(Decision decision) => decision is { Earlier: null, Policies: [var only] }
        ? Limit(decision, only)
        : string.Join(
            ", ", All(decision).SelectMany(one => one.Policies.Select(policy => Limit(one, policy))).Where(limit => limit.Length > 0));

    private static Decision[] All(Decision decision) => decision.Earlier is { } earlier ? [earlier, decision] : [decision];

    private static string Limit(Decision decision, PolicyDecision policy) => policy.Permits is not { } permits ? "" : string.Create(
        CultureInfo.InvariantCulture, $"\"{policy.Request.Policy.Name}\";r={policy.Left(decision.Allowed)};t={Seconds(permits.Reset)}");

    /// <summary>Seconds until a denied client can try again; at least one.</summary>
    public static long RetryAfter(Decision decision) =>
        Seconds(Denied(decision).Max(policy => policy.Permits!.Value.Wait) + EarlyMilliseconds);

    public static IEnumerable<PolicyDecision> Denied(Decision decision) =>
        decision.Policies.Where(policy => policy.Outcome is PermitOutcome.Denied);

    /// <summary>Whole seconds, rounded up.</summary>
    public static long Seconds(long milliseconds) => (milliseconds + 999) / 1000;
}
