using System.Collections.Concurrent;

namespace CachingApi.Caching;

/// <summary>
/// One load at a time for each key of this process: callers that ask for a key that is being loaded wait for that load
/// (after golang/groupcache's singleflight). At the time-out the waiters fail and the flight is removed, even if the load ignores
/// its cancellation token.
/// </summary>
internal sealed class SingleFlight<T>(TimeSpan timeout)
{
    private readonly ConcurrentDictionary<string, Flight> _flights = new();

    /// <summary>How many loads are under way.</summary>
    public int Count => _flights.Count;

    /// <summary>Runs <paramref name="load"/>, or joins the run that is under way. If the run fails, each of its waiters fails.</summary>
    /// <param name="generation">Only runs of the same generation are joined.</param>
    /// <param name="maxAge">Only runs that began less than this ago are joined.</param>
    /// <param name="cancel">Ends this caller's wait; the load goes on for the others, up to the time-out.</param>
    /// <returns>The result, and if the run was another caller's, how long it had been under way.</returns>
    /// <exception cref="TimeoutException">The load took longer than the time-out.</exception>
    public async Task<(T Value, TimeSpan? Joined)> RunAsync(
        string key, long generation, TimeSpan maxAge, Func<CancellationToken, Task<T>> load, CancellationToken cancel)
    {
        var mine = new Flight(generation, maxAge);
        var flight = _flights.AddOrUpdate(
            key,
            static (_, mine) => mine,
            static (_, under, mine) => under.Generation == mine.Generation && mine.Since(under) < mine.MaxAge ? under : mine,
            mine);

        if (ReferenceEquals(flight, mine))
        {
            _ = FlyAsync(key, mine, load);
        }

        return (await flight.Landed.Task.WaitAsync(cancel), ReferenceEquals(flight, mine) ? null : mine.Since(flight));
    }

    /// <summary>
    /// Later callers do not join the run that is under way, because its value may be older than the one that was just written.
    /// </summary>
    /// <remarks>
    /// 1. reader A begins a load and reads version 1;
    /// 2. a writer commits version 2, and its caller gets the answer;
    /// 3. reader B comes: if it joined A's load, it would be served version 1 after the write was acknowledged.
    /// </remarks>
    public void Forget(string key) => _flights.TryRemove(key, out _);

    /// <summary>As <see cref="Forget"/>, for every run whose key begins so.</summary>
    public void ForgetAll(string prefix)
    {
        foreach (var (key, _) in _flights)
        {
            if (key.StartsWith(prefix, StringComparison.Ordinal))
            {
                Forget(key);
            }
        }
    }

    private async Task FlyAsync(string key, Flight flight, Func<CancellationToken, Task<T>> load)
    {
        using var deadline = new CancellationTokenSource(timeout);
        try
        {
            // All waiters share the load: it must not run inside the request that began it, nor end with that request.
            var value = await Task.Run(() => load(deadline.Token), CancellationToken.None).WaitAsync(deadline.Token);
            Land(key, flight, landed => landed.SetResult(value));
        }
        catch (OperationCanceledException error) when (deadline.IsCancellationRequested)
        {
            Land(key, flight, landed => landed.SetException(new TimeoutException($"A load took longer than {timeout}.", error)));
        }
#pragma warning disable CA1031 // Every failure goes to the callers that wait.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Land(key, flight, landed => landed.SetException(error));
        }
    }

    /// <summary>Removes the run from the list first, so that a waiter that does not accept its result does not join it again.</summary>
    private void Land(string key, Flight flight, Action<TaskCompletionSource<T>> land)
    {
        _flights.TryRemove(new(key, flight));
        land(flight.Landed);
    }

    private sealed class Flight(long generation, TimeSpan maxAge)
    {
        private readonly long _began = Environment.TickCount64;

        public long Generation => generation;

        public TimeSpan MaxAge => maxAge;

        /// <summary>How long an earlier run had been under way when this one was made.</summary>
        public TimeSpan Since(Flight earlier) => TimeSpan.FromMilliseconds(_began - earlier._began);

        public TaskCompletionSource<T> Landed { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
