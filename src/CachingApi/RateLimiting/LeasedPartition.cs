namespace CachingApi.RateLimiting;

/// <summary>One partition of a policy in this process: its rate, and its lease if there is one.</summary>
internal sealed class LeasedPartition(PermitLeases leases, TimeProvider time)
{
    /// <summary>A lease has the permits that are expected to be used in this time.</summary>
    private const double HorizonMilliseconds = 50;

    /// <summary>A partition is hot if it is expected to need this many permits more in that time: about 100 requests per second.</summary>
    private const int HotFrom = 4;

    /// <summary>A partition is idle when so many sweeps in a row have found no request.</summary>
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

    /// <summary>Keeps the permits that a call has leased. What is left of the lease before it is refunded.</summary>
    public void Granted(LeaseRequest asked, int permits, Permits answer)
    {
        PermitRequest? unused;
        lock (_lock)
        {
            (unused, _lease) = (_lease?.Close(), new PermitLease(asked.Request, permits, answer, asked.Sent, time));
        }

        leases.Refund(unused);
    }

    /// <summary>The call was answered or has failed: the next one may request a lease.</summary>
    public void Asked()
    {
        lock (_lock)
        {
            _asking = false;
        }
    }

    /// <summary>Ends a lease whose time has come.</summary>
    /// <param name="idle">Whether the partition can be removed; it leases nothing more then.</param>
    /// <returns>What is left of the lease, to be refunded.</returns>
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
    /// <returns>What is left of it, to be refunded.</returns>
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

        // As if the requests since the last measurement had been spread evenly.
        var weight = elapsed < 1e-6 ? 1 : (1 - decay) / elapsed;
        _recent = _recent * decay + (requested - _measured) * weight;
        (_measured, _measuredAt) = (requested, now);
        return _recent;
    }
}

/// <summary>That the call for a request's own permits leases further ones.</summary>
/// <param name="Further">How many, if the script's bound allows it.</param>
/// <param name="Sent">A timestamp before the call was sent.</param>
internal sealed record LeaseRequest(LeasedPartition Partition, PermitRequest Request, int Further, long Sent);
