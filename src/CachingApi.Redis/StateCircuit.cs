using StackExchange.Redis;

namespace CachingApi.Redis;

/// <summary>
/// The deadline and the circuit breaker of the state server. While the circuit is open, every operation fails at once and nothing is
/// sent; a probe in the background closes it when a master answers again.
/// </summary>
/// <remarks>
/// A request uses the state server several times in sequence: session, limits, write. After an operation that was not answered, the next
/// ones wait for a quarter of the deadline, until one is answered, perhaps late. So a request does not wait for the deadline several times
/// before the circuit opens. A refusal by the server is an answer: it takes no time, and it may concern only one key.
/// On a cluster, one master may fail while the others serve their users, so the probe succeeds if one master answers.
/// </remarks>
internal sealed partial class StateCircuit(
    TimeSpan deadline, Func<IEnumerable<Task>> probes, ILogger log) : IDisposable
{
    private static readonly TimeSpan ProbeInterval = TimeSpan.FromMilliseconds(100);

    private readonly CircuitBreaker _circuit = new(deadline);
    private readonly CancellationTokenSource _stop = new();
    private volatile bool _isDoubtful;
    private volatile string _lastFailure = "";
    private int _isProbing;

    /// <summary>Whether the circuit is open, so that the state server is not used.</summary>
    public bool IsOpen => _circuit.IsOpen;

    /// <exception cref="RedisException">The state server fails or refuses the operation, or the circuit is open.</exception>
    /// <exception cref="TimeoutException">
    /// The server has not answered in time: it is not known whether it has done the operation.
    /// </exception>
    public async Task<T> RunAsync<T>(Func<Task<T>> operation, CancellationToken cancel)
    {
        if (_circuit.IsOpen)
        {
            BeginProbing();
            throw new RedisException("The state server has not answered for some time.");
        }

        var wait = _isDoubtful ? deadline / 4 : deadline;
        Task<T>? reply = null;
        try
        {
            reply = operation();
            var value = await reply.WaitAsync(wait, cancel);
            Answered();
            return value;
        }
        catch (RedisServerException)
        {
            Answered();
            throw;
        }
        catch (Exception error) when (RedisConnections.IsOutage(error))
        {
            _lastFailure = RedisConnections.Reason(error);
            Failed(isDoubtful: wait == deadline);
            _ = reply?.ContinueWith(
                _ => Answered(), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion, TaskScheduler.Default);
            throw;
        }
    }

    public void Dispose()
    {
        _stop.Cancel();
        _stop.Dispose();
    }

    private void Answered()
    {
        _isDoubtful = false;
        _circuit.Succeeded();
    }

    private void Failed(bool isDoubtful)
    {
        if (isDoubtful)
        {
            _isDoubtful = true;
        }

        _circuit.Failed();
        if (_circuit.IsOpen)
        {
            BeginProbing();
        }
    }

    private void BeginProbing()
    {
        if (Interlocked.Exchange(ref _isProbing, 1) == 0)
        {
            _ = Task.Run(ProbeAsync);
        }
    }

    private async Task ProbeAsync()
    {
        Log.Opened(log, _lastFailure);
        using var timer = new PeriodicTimer(ProbeInterval);
        try
        {
            do
            {
                // Read before the probe: if the circuit opens again during the probe, it stays open.
                var openings = _circuit.Openings;
                if (await AnswersAsync())
                {
                    _isDoubtful = false;
                    _circuit.Close(openings);
                }
            }
            while (_circuit.IsOpen && await timer.WaitForNextTickAsync(_stop.Token));

            Log.Closed(log);
        }
        catch (Exception error) when (error is OperationCanceledException or ObjectDisposedException)
        {
            // The process is stopping.
        }
        finally
        {
            Volatile.Write(ref _isProbing, 0);
        }
    }

    private async Task<bool> AnswersAsync()
    {
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token);
        timeout.CancelAfter(deadline);
        try
        {
            await foreach (var probe in Task.WhenEach(probes()).WithCancellation(timeout.Token))
            {
                if (probe.IsCompletedSuccessfully)
                {
                    return true;
                }
            }

            return false;
        }
        catch (Exception error) when (
            (RedisConnections.IsOutage(error) || error is OperationCanceledException) && !_stop.IsCancellationRequested)
        {
            return false;
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "Redis (state) is not used until it answers again: {Reason}")]
        public static partial void Opened(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Warning, "Redis (state) is used again")]
        public static partial void Closed(ILogger log);
    }
}
