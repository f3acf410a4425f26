using System.Globalization;

namespace CachingApi.RateLimiting;

/// <summary>One policy, as configured at the moment.</summary>
internal sealed class RateLimitPolicy(string name, RateLimitSettings settings)
{
    private readonly string _keyEnd = string.Create(
        CultureInfo.InvariantCulture, $"{name}:{settings.Algorithm}:{(long)settings.Window.TotalMilliseconds}");

    public string Name => name;

    public string Algorithm => settings.Algorithm;

    public long Limit => settings.Limit;

    public long WindowMilliseconds { get; } = (long)settings.Window.TotalMilliseconds;

    public string Partition => settings.Partition;

    public string OnStoreFailure => settings.OnStoreFailure;

    /// <summary>What it allows, as <see cref="RateLimitHeaders.Policies"/> says it: made once, as every limited answer carries it.</summary>
    public string Quota { get; } = string.Create(
        CultureInfo.InvariantCulture, $"\"{name}\";q={settings.Limit};w={RateLimitHeaders.Seconds((long)settings.Window.TotalMilliseconds)}");

    /// <summary>
    /// Where Redis holds the state: <c>&lt;prefix&gt;:limits:{&lt;partition&gt;}:&lt;policy&gt;:&lt;algorithm&gt;:&lt;window&gt;</c>. What is in braces
    /// names the slot of a Redis Cluster, so the policies of one partition are decided together. A state means something to its
    /// algorithm and window only, so another of either begins anew.
    /// </summary>
    public string Key(string prefix, string partition) => $"{prefix}:limits:{{{partition}}}:{_keyEnd}";
}
