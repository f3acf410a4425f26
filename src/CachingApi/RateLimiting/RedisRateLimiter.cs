namespace CachingApi.RateLimiting;

/// <summary>A request for permits of one policy.</summary>
/// <param name="Key">The key of its partition's state.</param>
/// <param name="Cost">The number of permits; below zero for a refund.</param>
internal sealed record PermitRequest(RateLimitPolicy Policy, string Key, int Cost)
{
    /// <summary>The lease that its call requests as well.</summary>
    public LeaseRequest? Lease { get; init; }

    /// <summary>Whether its permits may be refunded to Redis, because another slot decides on the request as well.</summary>
    public bool IsRefundable { get; init; }

    /// <summary>Time and server of the grant of permits that are refunded.</summary>
    public Grant Grant { get; init; }
}

internal enum PermitOutcome
{
    Allowed,
    Denied,

    /// <summary>Redis is unavailable, and the policy allows no request without it.</summary>
    Unavailable,
}

/// <summary>The decision of one policy.</summary>
/// <param name="Permits">Its permits; <c>null</c> if Redis is unavailable and the policy does not count in this process.</param>
/// <param name="By">The outcome as the metrics name it.</param>
internal readonly record struct PolicyDecision(PermitRequest Request, PermitOutcome Outcome, Permits? Permits, string By)
{
    /// <summary>The remaining permits; a denied request spends none.</summary>
    public long Left(bool allowed) => Math.Max(0, (Permits?.Available ?? 0) - (allowed ? Request.Cost : 0));
}

/// <summary>The decision on a request.</summary>
internal sealed record Decision(PermitOutcome Outcome, PolicyDecision[] Policies)
{
    public bool Allowed => Outcome is PermitOutcome.Allowed;

    /// <summary>All policies that the request must meet; a rejection from memory concerns only one of them.</summary>
    public RateLimitPolicy[] Required { get; init; } = [];

    /// <summary>The earlier decision on the same request, by other policies.</summary>
    public Decision? Earlier { get; init; }
}

/// <summary>The permits that the call of a request's session requests: see <see cref="RequestLimits.Ahead"/>.</summary>
/// <param name="Asked">A timestamp before the call was sent.</param>
internal sealed record PermitsAhead(PermitRequest[] Requests, long Asked)
{
    /// <summary>The answers; empty if the session does not exist.</summary>
    public Permits[] Answers { get; set; } = [];
}

/// <summary>
/// Decides on requests: from the rejections in memory, else from leases, else in Redis, else by each policy's rule for an unavailable
/// Redis.
/// </summary>
internal sealed class RedisRateLimiter(
    RedisLimits redis,
    PermitLeases leases,
    LocalLimits local,
    RejectionCache rejections,
    RateLimitMetrics metrics,
    TimeProvider time)
{
    public string KeyPrefix => redis.KeyPrefix;

    /// <summary>The rejection of a request from memory; <c>null</c> if there is none.</summary>
    public Decision? Recall(PermitRequest request) =>
        rejections.Find(request) is { } rejection ? Decided([Remembered(request, rejection)]) : null;

    /// <summary>
    /// Decides on all policies of a request: all permits are acquired, or none. The caller checks <see cref="Recall"/> first, because a
    /// lease must not override a rejection.
    /// </summary>
    public Task<Decision> DecideAsync(PermitRequest[] requests, CancellationToken cancel) =>
        leases.TryAcquire(requests) is { } permits
            ? Task.FromResult(Leased(requests, permits))
            : DecideInRedisAsync(leases.WithLeases(requests), cancel);

    /// <summary>
    /// Permits that the call of a request's session can request; <c>null</c> if they are in another slot, or if a rejection is remembered.
    /// </summary>
    /// <remarks>
    /// They have no lease. Until the call is answered, nobody knows whether the session exists, and with invented tokens a client could
    /// fill the partitions that are measured.
    /// </remarks>
    public PermitsAhead? Ahead(PermitRequest[] requests) =>
        redis.IsCluster || Array.Exists(requests, request => rejections.Find(request) is not null)
            ? null
            : new(requests, time.GetTimestamp());

    /// <summary>Decides by the answers to permits that were requested with the session.</summary>
    public Decision Decide(PermitsAhead ahead)
    {
        var decision = Decided(
            [.. ahead.Requests.Zip(ahead.Answers, (request, permits) => ByRedis(request, permits, ahead.Asked))]);
        if (decision.Allowed)
        {
            CountLocally(ahead.Requests);
        }

        return decision;
    }

    private Decision Leased(PermitRequest[] requests, Permits[] permits)
    {
        var policies = new PolicyDecision[requests.Length];
        for (var request = 0; request < requests.Length; request++)
        {
            policies[request] = new(requests[request], PermitOutcome.Allowed, permits[request], RateLimitMetrics.Allowed);
        }

        CountLocally(requests);
        return Decided(policies);
    }

    private async Task<Decision> DecideInRedisAsync(PermitRequest[] requests, CancellationToken cancel)
    {
        var asked = time.GetTimestamp();
        var (answers, acquired) = await redis.AcquireAsync(requests, cancel);
        var policies = new PolicyDecision[requests.Length];
        for (var request = 0; request < requests.Length; request++)
        {
            policies[request] = answers[request] is { } permits
                ? ByRedis(requests[request], permits, asked)
                : WithoutRedis(requests[request]);
        }

        var decision = Decided(policies);
        if (decision.Allowed)
        {
            CountLocally(acquired);
            return decision;
        }

        await redis.RefundAsync(acquired);
        foreach (var policy in policies.Where(
            policy => policy is { Outcome: PermitOutcome.Allowed, By: RateLimitMetrics.Fallback, Permits: not null }))
        {
            local.Refund(policy.Request, policy.Permits!.Value.Grant);
        }

        return decision;
    }

    /// <summary>Counts in this process as well, so that a client gains no permits if Redis fails in the middle of a window.</summary>
    private void CountLocally(PermitRequest[] acquired)
    {
        foreach (var request in acquired)
        {
            if (request.Policy.OnStoreFailure is StoreFailure.Local)
            {
                local.Acquire(request);
            }
        }
    }

    private static PolicyDecision Remembered(PermitRequest request, Rejection rejection) =>
        new(request, PermitOutcome.Denied, rejection.Permits, RateLimitMetrics.DeniedLocally);

    private PolicyDecision ByRedis(PermitRequest request, Permits permits, long asked)
    {
        if (permits.Granted)
        {
            rejections.Forget(request);
            return new(request, PermitOutcome.Allowed, permits, RateLimitMetrics.Allowed);
        }

        rejections.Remember(request, permits, asked);
        return new(request, PermitOutcome.Denied, permits, RateLimitMetrics.Denied);
    }

    private PolicyDecision WithoutRedis(PermitRequest request)
    {
        // A denied client stays denied: an unavailable Redis must not give it new permits.
        if (rejections.Find(request) is { } rejection)
        {
            return Remembered(request, rejection);
        }

        switch (request.Policy.OnStoreFailure)
        {
            case StoreFailure.Open:
                return new(request, PermitOutcome.Allowed, null, RateLimitMetrics.Fallback);
            case StoreFailure.Closed:
                return new(request, PermitOutcome.Unavailable, null, RateLimitMetrics.Fallback);
            default:
                var permits = local.Acquire(request);
                return new(request, permits.Granted ? PermitOutcome.Allowed : PermitOutcome.Denied, permits, RateLimitMetrics.Fallback);
        }
    }

    /// <summary>The strictest policy gives the outcome. The metrics count the policies with that outcome.</summary>
    private Decision Decided(PolicyDecision[] policies)
    {
        var outcome =
            Array.Exists(policies, policy => policy.Outcome is PermitOutcome.Denied) ? PermitOutcome.Denied
            : Array.Exists(policies, policy => policy.Outcome is PermitOutcome.Unavailable) ? PermitOutcome.Unavailable
            : PermitOutcome.Allowed;
        foreach (var policy in policies)
        {
            if (policy.Outcome == outcome)
            {
                metrics.Decided(policy.Request.Policy.Name, policy.By);
            }
        }

        return new(outcome, policies);
    }
}
