using System.Globalization;

namespace CachingApi.RateLimiting;

/// <summary>One policy, as currently configured.</summary>
internal sealed class RateLimitPolicy(string name, RateLimitSettings settings)
{
    private readonly string _keyEnd = string.Create(
        CultureInfo.InvariantCulture, $"{name}:{settings.Algorithm}:{(long)settings.Window.TotalMilliseconds}");

    private readonly RecentRequest?[] _recent = new RecentRequest?[256];

    public string Name => name;

    public string Algorithm => settings.Algorithm;

    public long Limit => settings.Limit;

    public long WindowMilliseconds { get; } = (long)settings.Window.TotalMilliseconds;

    public string Partition => settings.Partition;

    public string OnStoreFailure => settings.OnStoreFailure;

    /// <summary>
    /// The quota in the form of <see cref="RateLimitHeaders.Policies"/>. It is built once, because every limited answer contains it.
    /// </summary>
    public string Quota { get; } = string.Create(
        CultureInfo.InvariantCulture,
        $"\"{name}\";q={settings.Limit};w={RateLimitHeaders.Seconds((long)settings.Window.TotalMilliseconds)}");

    /// <summary>
    /// The key of the state in Redis: <c>&lt;prefix&gt;:limits:{&lt;partition&gt;}:&lt;policy&gt;:&lt;algorithm&gt;:&lt;window&gt;</c>. The
    /// partition is the hash tag, so one script on a Redis Cluster decides all policies of a partition. A state is valid for its algorithm
    /// and window only, so a change of either begins a new one.
    /// </summary>
    public string Key(string prefix, string partition) => $"{prefix}:limits:{{{partition}}}:{_keyEnd}";

    /// <summary>A request for permits of a partition. Recent ones are reused, so that a hot partition allocates no key.</summary>
    /// <param name="prefix">The same in all calls.</param>
    public PermitRequest RequestFor(string prefix, string partition, int cost)
    {
        ref var slot = ref _recent[partition.GetHashCode(StringComparison.Ordinal) & (_recent.Length - 1)];
        if (Volatile.Read(ref slot) is { } recent && recent.Partition == partition && recent.Request.Cost == cost)
        {
            return recent.Request;
        }

        var request = new PermitRequest(this, Key(prefix, partition), cost);
        Volatile.Write(ref slot, new(partition, request));
        return request;
    }

    private sealed record RecentRequest(string Partition, PermitRequest Request);
}
