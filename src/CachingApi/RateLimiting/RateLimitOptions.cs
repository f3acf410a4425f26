using System.ComponentModel.DataAnnotations;
using System.Text.RegularExpressions;

namespace CachingApi.RateLimiting;

/// <summary>The rate limits: the section <c>RateLimits</c>.</summary>
internal sealed partial class RateLimitOptions : IValidatableObject
{
    public bool Enabled { get; init; } = true;

    /// <summary>The policies by their names.</summary>
    public Dictionary<string, RateLimitSettings> Policies { get; init; } = [];

    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext)
    {
        var results = new List<ValidationResult>();
        foreach (var (name, settings) in Policies)
        {
            if (!Name().IsMatch(name))
            {
                results.Add(new("a name may contain only lower-case letters, digits and hyphens", [$"Policies:{name}"]));
            }

            var problems = new List<ValidationResult>();
            Validator.TryValidateObject(settings, new(settings), problems, validateAllProperties: true);
            results.AddRange(problems.Select(problem =>
                new ValidationResult(problem.ErrorMessage, [$"Policies:{name}:{problem.MemberNames.FirstOrDefault()}"])));
        }

        return results;
    }

    [GeneratedRegex("^[a-z0-9]+(-[a-z0-9]+)*$")]
    private static partial Regex Name();
}

/// <summary>One policy: the section <c>RateLimits:Policies:&lt;name&gt;</c>.</summary>
internal sealed class RateLimitSettings : IValidatableObject
{
    [AllowedValues(
        RateLimiting.Algorithm.FixedWindow,
        RateLimiting.Algorithm.SlidingWindow,
        RateLimiting.Algorithm.SlidingWindowCounter,
        RateLimiting.Algorithm.TokenBucket,
        ErrorMessage = "fixed-window, sliding-window, sliding-window-counter or token-bucket is expected")]
    public string Algorithm { get; init; } = RateLimiting.Algorithm.FixedWindow;

    /// <summary>How many permits a window has, or a bucket holds.</summary>
    [Range(1, 1_000_000)]
    public int Limit { get; init; }

    /// <summary>The length of a window, or the time in which an empty bucket is full.</summary>
    [Range(typeof(TimeSpan), "00:00:01", "31.00:00:00")]
    public TimeSpan Window { get; init; }

    /// <summary>The property by which requests are counted together.</summary>
    [AllowedValues(
        RateLimiting.Partition.Ip,
        RateLimiting.Partition.Network,
        RateLimiting.Partition.User,
        RateLimiting.Partition.Session,
        RateLimiting.Partition.ApiKey,
        RateLimiting.Partition.Account,
        ErrorMessage = "ip, network, user, session, api-key or account is expected")]
    public string Partition { get; init; } = RateLimiting.Partition.Ip;

    /// <summary>How the policy decides while Redis is unavailable.</summary>
    [AllowedValues(StoreFailure.Local, StoreFailure.Open, StoreFailure.Closed, ErrorMessage = "local, open or closed is expected")]
    public string OnStoreFailure { get; init; } = StoreFailure.Local;

    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext) =>
        Algorithm == RateLimiting.Algorithm.SlidingWindow && Limit > RateLimiting.SlidingWindow.MaxLimit
            ? [new(
                $"a sliding-window has at most {RateLimiting.SlidingWindow.MaxLimit} permits; a sliding-window-counter can have more",
                [nameof(Limit)])]
            : [];
}

/// <summary>How a policy decides while Redis is unavailable.</summary>
internal static class StoreFailure
{
    /// <summary>Each process counts by itself.</summary>
    public const string Local = "local";

    /// <summary>All requests are allowed.</summary>
    public const string Open = "open";

    /// <summary>No request is allowed: 503.</summary>
    public const string Closed = "closed";
}
