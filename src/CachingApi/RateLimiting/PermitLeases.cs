using System.Collections.Concurrent;

namespace CachingApi.RateLimiting;

/// <summary>
/// Leases of permits for hot partitions. The call that decides a request also acquires as many further permits as this process expects to
/// need in the next 50 ms; later requests use them without a round trip.
/// </summary>
/// <remarks>
/// <para>
/// The total over all processes never exceeds the limit: Redis counts leased permits as used when it grants them, and this process uses
/// each one once, refunds it once, or loses it. The script grants at most one sixteenth of the remaining permits, so that near the limit
/// each request is decided individually. A lease ends 100 ms after its call was sent, and with the window that granted it:
/// (1) the call is sent; (2) Redis grants permits of a window that ends in 30 ms; (3) the reply is late, and the window ends;
/// (4) the next window begins with all its permits. If the lease's time counted from the reply, the lease would now add permits of the
/// window before. Counted from (1), by a monotonic clock, the lease has ended.
/// </para>
/// <para>
/// A process that crashes loses its leases: their permits stay used. A reply that arrives after its request has given up still brings
/// its lease. At most <see cref="Capacity"/> partitions are measured; one without requests for 200 ms is removed.
/// </para>
/// </remarks>
internal sealed class PermitLeases : IAsyncDisposable
{
    /// <summary>The maximum number of measured partitions. Requests of further partitions are decided individually.</summary>
    public const int Capacity = 10_000;

    private static readonly TimeSpan SweepInterval = TimeSpan.FromMilliseconds(50);

    private readonly ConcurrentDictionary<string, LeasedPartition> _partitions = new(StringComparer.Ordinal);
    private readonly RedisLimits _redis;
    private readonly TimeProvider _time;
    private readonly ITimer _timer;
    private int _count;
    private int _sweeping;

    public PermitLeases(RedisLimits redis, TimeProvider time)
    {
        (_redis, _time) = (redis, time);
        _timer = time.CreateTimer(_ => Sweep(), null, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
    }

    /// <summary>How many partitions are measured.</summary>
    public int Count => Volatile.Read(ref _count);

    /// <summary>
    /// Whether a policy's permits can be leased: not if it uses the exact log, and not if it denies requests while Redis is unavailable,
    /// such as the policy of logins.
    /// </summary>
    public static bool Allows(RateLimitPolicy policy) =>
        policy is { Algorithm: not Algorithm.SlidingWindow, OnStoreFailure: not StoreFailure.Closed, Limit: > PermitLease.Share };

    /// <summary>Acquires the permits of a request if each of its policies has a lease with enough of them.</summary>
    /// <returns>The answers; <c>null</c> if Redis must decide.</returns>
    public Permits[]? TryAcquire(PermitRequest[] requests)
    {
        if (!_partitions.TryGetValue(requests[0].Key, out var partition) || partition.TryAcquire(requests[0]) is not { } first)
        {
            return null;
        }

        var leases = new PermitLease[requests.Length];
        leases[0] = first;
        for (var index = 1; index < requests.Length; index++)
        {
            if (!_partitions.TryGetValue(requests[index].Key, out partition) || partition.TryAcquire(requests[index]) is not { } lease)
            {
                Return(leases.AsSpan(0, index), requests);
                return null;
            }

            leases[index] = lease;
        }

        var answers = new Permits[requests.Length];
        for (var index = 0; index < answers.Length; index++)
        {
            answers[index] = leases[index].AnswerTo(requests[index]);
        }

        return answers;
    }

    /// <summary>
    /// Adds requests for leases, for the hot partitions that have none. A request with a policy that cannot be leased needs Redis
    /// anyway, so it leases nothing.
    /// </summary>
    public PermitRequest[] WithLeases(PermitRequest[] requests)
    {
        if (!Array.TrueForAll(requests, request => Allows(request.Policy)))
        {
            return requests;
        }

        PermitRequest[]? leasing = null;
        for (var index = 0; index < requests.Length; index++)
        {
            var request = requests[index];
            if (PartitionOf(request.Key)?.Ask(request) is { } lease)
            {
                leasing ??= [.. requests];
                leasing[index] = request with { Lease = lease };
            }
        }

        return leasing ?? requests;
    }

    /// <summary>Called when the call that requests leases was answered, has failed, or was not sent.</summary>
    public static void Asked(PermitRequest[] requests)
    {
        foreach (var request in requests)
        {
            request.Lease?.Partition.Asked();
        }
    }

    /// <summary>Refunds the rest of all leases.</summary>
    public async ValueTask DisposeAsync()
    {
        await _timer.DisposeAsync();
        await Task.WhenAll(_partitions.Values.Select(partition => partition.Close()).OfType<PermitRequest>().Select(RefundAsync));
    }

    private LeasedPartition? PartitionOf(string key)
    {
        if (_partitions.TryGetValue(key, out var partition))
        {
            return partition;
        }

        if (Count >= Capacity)
        {
            return null;
        }

        var added = new LeasedPartition(this, _time);
        partition = _partitions.GetOrAdd(key, added);
        if (partition == added)
        {
            Interlocked.Increment(ref _count);
            SweepLater();
        }

        return partition;
    }

    private void Return(ReadOnlySpan<PermitLease> leases, PermitRequest[] requests)
    {
        for (var index = 0; index < leases.Length; index++)
        {
            if (!leases[index].TryReturn(requests[index].Cost))
            {
                Refund(leases[index].Unused(requests[index].Cost));
            }
        }
    }

    /// <summary>Refunds permits to Redis. If that fails, the permits are lost, so the limit still holds.</summary>
    public void Refund(PermitRequest? unused)
    {
        if (unused is not null)
        {
            _ = RefundAsync(unused);
        }
    }

    private Task RefundAsync(PermitRequest unused) => _redis.RefundAsync([unused]);

    private void SweepLater()
    {
        if (Interlocked.Exchange(ref _sweeping, 1) == 0)
        {
            _timer.Change(SweepInterval, Timeout.InfiniteTimeSpan);
        }
    }

    /// <summary>Refunds leases that have ended, and removes idle partitions.</summary>
    private void Sweep()
    {
        foreach (var (key, partition) in _partitions)
        {
            Refund(partition.Sweep(out var idle));
            if (idle && _partitions.TryRemove(KeyValuePair.Create(key, partition)))
            {
                Interlocked.Decrement(ref _count);
            }
        }

        // In this order: a caller that adds a partition meanwhile finds the flag cleared and starts the timer itself.
        Volatile.Write(ref _sweeping, 0);
        if (Count > 0)
        {
            SweepLater();
        }
    }
}
