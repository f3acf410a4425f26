namespace CachingApi.RateLimiting;

/// <summary>That a request wants permits of a policy.</summary>
/// <param name="Key">The key of its partition's state.</param>
internal sealed record Demand(RateLimitPolicy Policy, string Key, int Cost);

internal enum Verdict
{
    Allowed,
    Denied,

    /// <summary>Redis is away, and the policy lets nobody in without it.</summary>
    Unavailable,
}

/// <summary>What one policy says.</summary>
/// <param name="Permits">What it has; <c>null</c> where nobody counts.</param>
/// <param name="By">Who said so, as the metrics name it.</param>
internal readonly record struct PolicyDecision(Demand Demand, Verdict Verdict, Permits? Permits, string By)
{
    /// <summary>How many permits are left; a request that is not let in spends none.</summary>
    public long Left(bool allowed) => Math.Max(0, (Permits?.Available ?? 0) - (allowed ? Demand.Cost : 0));
}

/// <summary>What is said to a request.</summary>
internal sealed record Decision(Verdict Verdict, PolicyDecision[] Policies)
{
    public bool Allowed => Verdict is Verdict.Allowed;

    /// <summary>All policies that the request must meet; a rejection that is remembered is of one of them.</summary>
    public RateLimitPolicy[] Required { get; init; } = [];

    /// <summary>The decision on the same request before, by other policies.</summary>
    public Decision? Earlier { get; init; }
}

/// <summary>Decides on requests: from memory who is denied already, else in Redis, else by what the policies say of its absence.</summary>
internal sealed class RateLimiter(RedisLimits redis, LocalLimits local, Denials denials, RateLimitMetrics metrics, TimeProvider time)
{
    public string KeyPrefix => redis.KeyPrefix;

    /// <summary>The refusal of a demand that is remembered here; <c>null</c> where Redis must be asked.</summary>
    public Decision? Recall(Demand demand) =>
        denials.Find(demand) is { } denial ? Decided([Remembered(demand, denial)]) : null;

    /// <summary>Decides on all that a request wants: all is spent, or nothing.</summary>
    public async Task<Decision> DecideAsync(Demand[] demands, CancellationToken cancel)
    {
        var asked = time.GetTimestamp();
        var (answers, spent) = await redis.SpendAsync(demands, cancel);
        var policies = new PolicyDecision[demands.Length];
        for (var demand = 0; demand < demands.Length; demand++)
        {
            policies[demand] = answers[demand] is { } permits ? ByRedis(demands[demand], permits, asked) : WithoutRedis(demands[demand]);
        }

        var decision = Decided(policies);
        if (!decision.Allowed)
        {
            await redis.GiveBackAsync(spent);
            foreach (var policy in policies.Where(policy => policy is { Verdict: Verdict.Allowed, By: RateLimitMetrics.Fallback, Permits: not null }))
            {
                local.GiveBack(policy.Demand);
            }
        }
        else
        {
            foreach (var demand in spent.Where(demand => demand.Policy.OnStoreFailure is StoreFailure.Local))
            {
                local.Spend(demand);
            }
        }

        return decision;
    }

    private static PolicyDecision Remembered(Demand demand, Denial denial) =>
        new(demand, Verdict.Denied, denial.Permits, RateLimitMetrics.DeniedLocally);

    private PolicyDecision ByRedis(Demand demand, Permits permits, long asked)
    {
        if (permits.Granted)
        {
            denials.Forget(demand);
            return new(demand, Verdict.Allowed, permits, RateLimitMetrics.Allowed);
        }

        denials.Remember(demand, permits, asked);
        return new(demand, Verdict.Denied, permits, RateLimitMetrics.Denied);
    }

    private PolicyDecision WithoutRedis(Demand demand)
    {
        // Who was denied stays so: nobody gains permits because Redis is away.
        if (denials.Find(demand) is { } denial)
        {
            return Remembered(demand, denial);
        }

        switch (demand.Policy.OnStoreFailure)
        {
            case StoreFailure.Open:
                return new(demand, Verdict.Allowed, null, RateLimitMetrics.Fallback);
            case StoreFailure.Closed:
                return new(demand, Verdict.Unavailable, null, RateLimitMetrics.Fallback);
            default:
                var permits = local.Spend(demand);
                return new(demand, permits.Granted ? Verdict.Allowed : Verdict.Denied, permits, RateLimitMetrics.Fallback);
        }
    }

    /// <summary>The verdict is that of the strictest; what is counted is who gave it.</summary>
    private Decision Decided(PolicyDecision[] policies)
    {
        var verdict =
            policies.Any(policy => policy.Verdict is Verdict.Denied) ? Verdict.Denied
            : policies.Any(policy => policy.Verdict is Verdict.Unavailable) ? Verdict.Unavailable
            : Verdict.Allowed;
        foreach (var policy in policies.Where(policy => policy.Verdict == verdict))
        {
            metrics.Decided(policy.Demand.Policy.Name, policy.By);
        }

        return new(verdict, policies);
    }
}
