namespace CachingApi.Caching;

/// <summary>
/// Group commit: requests that arrive while a run is under way share the next run. A run never serves a request that arrived after the
/// run began.
/// </summary>
internal sealed class GroupCommit<TRequest, TResult>
{
    private readonly Lock _lock = new();
    private Task _current = Task.CompletedTask;
    private Task<TResult>? _next;
    private List<TRequest> _requests = [];

    /// <summary>Runs <paramref name="run"/> for this request and all requests that arrived since the last run began.</summary>
    public Task<TResult> RunAsync(TRequest request, Func<IReadOnlyList<TRequest>, Task<TResult>> run)
    {
        lock (_lock)
        {
            _requests.Add(request);
            return _next ??= AfterAsync(_current, run);
        }
    }

    private async Task<TResult> AfterAsync(Task current, Func<IReadOnlyList<TRequest>, Task<TResult>> run)
    {
        // Its callers see the failure of the run before this one; here only its end matters.
        await current.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing | ConfigureAwaitOptions.ForceYielding);
        List<TRequest> requests;
        lock (_lock)
        {
            (_current, _next) = (_next!, null);
            (requests, _requests) = (_requests, []);
        }

        return await run(requests);
    }
}
