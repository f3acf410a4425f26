namespace CachingApi.RateLimiting;

/// <summary>One partition of a policy in this process: its rate, and its lease if there is one.</summary>
internal sealed class LeasedPartition(PermitLeases leases, TimeProvider time)
{
    /// <summary>A lease has the permits that this process expects to use in this time.</summary>
    private const double HorizonMilliseconds = 50;

    /// <summary>
    /// A partition is hot if it will probably need this many further permits in that time: about 100 requests per second.
    /// </summary>
    private const int HotFrom = 4;

    /// <summary>A partition is idle when this many sweeps in a row have found no request.</summary>
    private const int IdleSweeps = 4;

    private readonly Lock _lock = new();
    private PermitLease? _lease;
    private long _requested;
    private bool _asking;
    private bool _removed;

    // The permits of the last 50 ms, each weighted by exp(-age / 50 ms): at a steady rate, the rate times 50 ms.
    private double _recent;
    private long _measured;
    private long _measuredAt = time.GetTimestamp();

    private long _swept;
    private int _quietSweeps;

    /// <summary>Acquires permits from the lease.</summary>
    public PermitLease? TryAcquire(PermitRequest request)
    {
        if (Volatile.Read(ref _lease) is not { } lease || lease.Request.Policy != request.Policy || !lease.TryAcquire(request.Cost))
        {
            return null;
        }

        Interlocked.Add(ref _requested, request.Cost);
        return lease;
    }

    /// <summary>Measures a request that Redis decides.</summary>
    /// <returns>The lease that its call requests as well; <c>null</c> if the partition is not hot, or another call requests one.</returns>
    public LeaseRequest? Ask(PermitRequest request)
    {
        lock (_lock)
        {
            Interlocked.Add(ref _requested, request.Cost);
            var further = (int)Measure() - request.Cost;
            if (further < HotFrom || _asking || _removed || _lease?.Covers(request) is true)
            {
                return null;
            }

            _asking = true;
            return new(this, request, further, time.GetTimestamp());
        }
    }

    /// <summary>Keeps the permits that a call has leased, and refunds the rest of the lease before.</summary>
    public void Granted(LeaseRequest asked, int permits, Permits answer)
    {
        PermitRequest? unused;
        lock (_lock)
        {
            (unused, _lease) = (_lease?.Close(), new PermitLease(asked.Request, permits, answer, asked.Sent, time));
        }

        leases.Refund(unused);
    }

    /// <summary>Called when the call was answered or has failed: the next one may request a lease.</summary>
    public void Asked()
    {
        lock (_lock)
        {
            _asking = false;
        }
    }

    /// <summary>Ends an expired lease.</summary>
    /// <param name="idle">Whether the partition can be removed; then it leases no more permits.</param>
    /// <returns>The rest of the lease, to be refunded.</returns>
    public PermitRequest? Sweep(out bool idle)
    {
        lock (_lock)
        {
            var requested = Volatile.Read(ref _requested);
            _quietSweeps = requested == _swept ? _quietSweeps + 1 : 0;
            _swept = requested;

            var unused = _lease is { HasEnded: true } ? Close() : null;
            idle = _removed = _quietSweeps >= IdleSweeps && !_asking && _lease is null;
            return unused;
        }
    }

    /// <summary>Ends the lease.</summary>
    /// <returns>The rest of the lease, to be refunded.</returns>
    public PermitRequest? Close()
    {
        lock (_lock)
        {
            var unused = _lease?.Close();
            _lease = null;
            return unused;
        }
    }

    private double Measure()
    {
        var (now, requested) = (time.GetTimestamp(), Volatile.Read(ref _requested));
        var elapsed = time.GetElapsedTime(_measuredAt, now).TotalMilliseconds / HorizonMilliseconds;
        var decay = Math.Exp(-elapsed);

        // Assumes that the requests since the last measurement were evenly distributed.
        var weight = elapsed < 1e-6 ? 1 : (1 - decay) / elapsed;
        _recent = _recent * decay + (requested - _measured) * weight;
        (_measured, _measuredAt) = (requested, now);
        return _recent;
    }
}

/// <summary>A request for a lease, as part of the call for a request's own permits.</summary>
/// <param name="Further">How many further permits to lease, if the script's bound allows it.</param>
/// <param name="Sent">A timestamp before the call was sent.</param>
internal sealed record LeaseRequest(LeasedPartition Partition, PermitRequest Request, int Further, long Sent);
