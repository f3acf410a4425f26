using System.Collections.Concurrent;
using System.Diagnostics;

namespace CachingApi.Lab;

/// <summary>When each version of each order was acknowledged to its writer, so that the staleness of a read is known.</summary>
internal sealed class Journal
{
    private readonly ConcurrentDictionary<string, List<(long Version, long Time)>> _orders = new();

    public void Acknowledged(string id, long version)
    {
        var versions = _orders.GetOrAdd(id, _ => []);
        lock (versions)
        {
            versions.Add((version, Stopwatch.GetTimestamp()));
        }
    }

    /// <summary>
    /// For how long the version that a read returned had been replaced when the read began, in milliseconds; 0 if no later version had
    /// been acknowledged by then.
    /// </summary>
    public double Staleness(string id, long version, long readBegan)
    {
        if (!_orders.TryGetValue(id, out var versions))
        {
            return 0;
        }

        lock (versions)
        {
            var replaced = versions.Where(later => later.Version > version).Select(later => later.Time).DefaultIfEmpty(readBegan).Min();
            return replaced < readBegan ? Stopwatch.GetElapsedTime(replaced, readBegan).TotalMilliseconds : 0;
        }
    }
}
