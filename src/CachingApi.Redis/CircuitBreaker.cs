namespace CachingApi.Redis;

/// <summary>
/// Opens when Redis has failed to answer for some time; then no request uses Redis, so that requests do not each wait for it in turn. The
/// class that owns the circuit breaker probes Redis and closes the circuit.
/// </summary>
/// <remarks>
/// Failures count by time, not by number: a pause of 85 ms fails every operation that was sent in its first half, however many those are,
/// and then it is over. The circuit opens after three failures over one and a half deadlines, if they outnumber the successes.
/// </remarks>
/// <param name="deadline">How long one operation may take.</param>
internal sealed class CircuitBreaker(TimeSpan deadline)
{
    private const int FailuresToOpen = 3;

    /// <summary>How long after an outage the other processes have to replay the invalidations that Redis missed.</summary>
    private const int SettleMilliseconds = 1000;

    private readonly double _window = deadline.TotalMilliseconds * 1.5;
    private readonly Lock _lock = new();
    private int _failures;
    private int _successes;
    private long _failingSince;
    private long _settledAt;
    private int _openings;
    private volatile bool _open;

    public bool IsOpen => _open;

    /// <summary>Whether an outage ended so recently that other processes may not have replayed their invalidations.</summary>
    public bool IsSettling => Environment.TickCount64 < Volatile.Read(ref _settledAt);

    /// <summary>How often the circuit has opened: see <see cref="Close"/>.</summary>
    public int Openings => Volatile.Read(ref _openings);

    /// <summary>Records that an operation was answered in time. While the circuit is open, only a probe closes it.</summary>
    public void Succeeded()
    {
        if (Volatile.Read(ref _failures) == 0)
        {
            return;
        }

        lock (_lock)
        {
            if (!_open && ++_successes > _failures)
            {
                (_failures, _successes) = (0, 0);
            }
        }
    }

    /// <summary>Records that an operation was not answered in time.</summary>
    public void Failed()
    {
        lock (_lock)
        {
            var now = Environment.TickCount64;
            if (_failures++ == 0)
            {
                (_failingSince, _successes) = (now, 0);
            }

            if (_failures >= FailuresToOpen && _failures > _successes && now - _failingSince >= _window)
            {
                OpenLocked();
            }
        }
    }

    /// <summary>Opens the circuit, because the connection was lost or replaced.</summary>
    public void Open()
    {
        lock (_lock)
        {
            OpenLocked();
        }
    }

    /// <summary>
    /// Closes the circuit after a probe was answered. If the circuit has opened again since the probe began, it stays open.
    /// </summary>
    public void Close(int openings)
    {
        lock (_lock)
        {
            if (_open && _openings == openings)
            {
                Volatile.Write(ref _settledAt, Environment.TickCount64 + SettleMilliseconds);
                (_failures, _successes, _open) = (0, 0, false);
            }
        }
    }

    private void OpenLocked()
    {
        _openings++;
        _open = true;
    }
}
