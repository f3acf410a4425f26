namespace CachingApi.Caching;

/// <summary>
/// Leaves Redis alone once it fails to answer several times in a row, so that requests don't each wait for it in turn.
/// <see cref="RedisRecovery"/> probes it and closes the circuit.
/// </summary>
internal sealed class CircuitBreaker
{
    private const int FailuresToOpen = 3;

    /// <summary>How long after an outage the other processes are given to say what they wrote meanwhile.</summary>
    private const int SettleMilliseconds = 1000;

    private int _failures;
    private long _settledAt;

    public bool IsOpen => Volatile.Read(ref _failures) >= FailuresToOpen;

    /// <summary>Whether an outage is so short ago that other processes may not have made up for what they wrote during it.</summary>
    public bool IsSettling => Environment.TickCount64 < Volatile.Read(ref _settledAt);

    /// <summary>An operation was answered. While the circuit is open only the probe can say that.</summary>
    public void Succeeded()
    {
        if (Volatile.Read(ref _failures) is > 0 and < FailuresToOpen)
        {
            Volatile.Write(ref _failures, 0);
        }
    }

    /// <summary>An operation was not answered in time.</summary>
    public void Failed() => Interlocked.Increment(ref _failures);

    /// <summary>The connection was lost, or is another one now.</summary>
    public void Open() => Volatile.Write(ref _failures, FailuresToOpen);

    /// <summary>A probe was answered.</summary>
    public void Close()
    {
        Volatile.Write(ref _settledAt, Environment.TickCount64 + SettleMilliseconds);
        Volatile.Write(ref _failures, 0);
    }
}
