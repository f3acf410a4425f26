using System.Globalization;

namespace CachingApi.RateLimiting;

/// <summary>The headers <c>RateLimit-Policy</c> and <c>RateLimit</c> (draft-ietf-httpapi-ratelimit-headers-10), lists of structured fields (RFC 9651).</summary>
internal static class RateLimitHeaders
{
    /// <summary>Timers of clients go by clocks that tick every few milliseconds: they may be early by so many.</summary>
    private const long EarlyMilliseconds = 10;

    /// <summary>What the policies allow: <c>"login";q=10;w=60</c>, a quota in a window of so many seconds.</summary>
    public static string Policies(Decision decision) => decision is { Earlier: null, Required: [var only] }
        ? only.Quota
        : string.Join(", ", All(decision).SelectMany(one => one.Required).Distinct().Select(policy => policy.Quota));

    /// <summary>What is left of them: <c>"login";r=7;t=42</c>, and in how many seconds there is more. Nothing where nobody counts.</summary>
    public static string Limits(Decision decision) => decision is { Earlier: null, Policies: [var only] }
        ? Limit(decision, only)
        : string.Join(
            ", ", All(decision).SelectMany(one => one.Policies.Select(policy => Limit(one, policy))).Where(limit => limit.Length > 0));

    private static Decision[] All(Decision decision) => decision.Earlier is { } earlier ? [earlier, decision] : [decision];

    private static string Limit(Decision decision, PolicyDecision policy) => policy.Permits is not { } permits ? "" : string.Create(
        CultureInfo.InvariantCulture, $"\"{policy.Demand.Policy.Name}\";r={policy.Left(decision.Allowed)};t={Seconds(permits.Reset)}");

    /// <summary>In how many seconds a denied request may come back: at least one.</summary>
    public static long RetryAfter(Decision decision) => Seconds(Denied(decision).Max(policy => policy.Permits!.Value.Wait) + EarlyMilliseconds);

    public static IEnumerable<PolicyDecision> Denied(Decision decision) => decision.Policies.Where(policy => policy.Verdict is Verdict.Denied);

    /// <summary>Whole seconds, rounded up.</summary>
    public static long Seconds(long milliseconds) => (milliseconds + 999) / 1000;
}
