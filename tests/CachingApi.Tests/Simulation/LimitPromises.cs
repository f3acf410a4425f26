using System.Buffers.Binary;
using CachingApi.Caching.Tests.Simulation;
using CachingApi.RateLimiting;

namespace CachingApi.Tests.Simulation;

/// <summary>The promises of docs/guarantees.md about limits, checked on the permits that all processes have used.</summary>
internal sealed class LimitPromises(RateLimitPolicy policy)
{
    public const string Exact = "A limit is exact";
    public const string Refunded = "Leased permits that are not used are refunded";

    /// <summary>A lease of a token bucket is used up to this long after its permits were counted.</summary>
    private const long MaxLease = 100;

    private readonly List<(long At, int Cost)> _used = [];

    /// <summary>The smallest request that was denied.</summary>
    private int _denied = int.MaxValue;

    /// <summary>Permits were used.</summary>
    /// <param name="at">When, by the clock of Redis, in milliseconds.</param>
    public void Used(long at, int cost) => _used.Add((at, cost));

    /// <summary>Redis has denied permits.</summary>
    public void Denied(int cost) => _denied = Math.Min(_denied, cost);

    /// <summary>No window and no bucket has granted more than its limit.</summary>
    public void Check()
    {
        var used = _used.OrderBy(permit => permit.At).ToArray();
        var (limit, window) = (policy.Limit, policy.WindowMilliseconds);
        switch (policy.Algorithm)
        {
            case Algorithm.FixedWindow or Algorithm.SlidingWindowCounter:
                long current = 0, previous = 0, start = 0;
                foreach (var (at, cost) in used)
                {
                    var next = at - (at % window);
                    (previous, current) = next == start ? (previous, current) : (next == start + window ? current : 0, 0);
                    (start, current) = (next, current + cost);
                    var counts = policy.Algorithm is Algorithm.FixedWindow ? 0 : previous * (start + window - at) / window;
                    Require(current + counts <= limit, $"{current} and {counts} of the window before");
                }

                break;
            case Algorithm.SlidingWindow:
                for (int first = 0, last = 0, sum = 0; last < used.Length; last++)
                {
                    for (sum += used[last].Cost; used[first].At <= used[last].At - window; first++)
                    {
                        sum -= used[first].Cost;
                    }

                    Require(sum <= limit, $"{sum}");
                }

                break;
            default:
                for (var first = 0; first < used.Length; first++)
                {
                    var sum = 0L;
                    foreach (var (at, cost) in used.Skip(first))
                    {
                        sum += cost;
                        var elapsed = at - used[first].At + MaxLease;
                        Require(sum <= limit + (elapsed * limit / window) + 1, $"in {elapsed} ms {sum}");
                    }
                }

                break;
        }

        void Require(bool holds, string permits)
        {
            if (!holds)
            {
                throw new BrokenPromiseException(Exact, $"{permits} permits of {limit} were used");
            }
        }
    }

    /// <summary>
    /// Every call was answered, no process has crashed, all leases and no window have ended: Redis counts what was used, and a request was
    /// denied only if there were too few permits for it.
    /// </summary>
    public void CheckCounted(byte[]? state)
    {
        var counted = state is null ? 0
            : policy.Algorithm is Algorithm.TokenBucket
                ? (BinaryPrimitives.ReadInt64BigEndian(state) + (policy.WindowMilliseconds / 2)) / policy.WindowMilliseconds
            : policy.Algorithm is Algorithm.SlidingWindow ? state.Length / 8
            : BinaryPrimitives.ReadInt64BigEndian(state.AsSpan(8));
        if (_used.Sum(permit => permit.Cost) is var used && used != counted)
        {
            throw new BrokenPromiseException(Refunded, $"{used} permits were used, and Redis counts {counted}");
        }

        if (policy.OnStoreFailure is StoreFailure.Closed && used + (long)_denied <= policy.Limit)
        {
            throw new BrokenPromiseException(Exact, $"{_denied} permits were denied, although only {used} of {policy.Limit} were used");
        }
    }
}
