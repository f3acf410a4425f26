namespace CachingApi.Caching;

/// <summary>
/// A service of the engine that runs until its host stops. It hides the cancellation, which a host that is disposed without a stop would
/// treat as a fault.
/// </summary>
internal abstract class EngineService : BackgroundService
{
    protected sealed override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        try
        {
            await RunAsync(stoppingToken);
        }
        catch (OperationCanceledException) when (stoppingToken.IsCancellationRequested)
        {
            // The host is stopping.
        }
    }

    protected abstract Task RunAsync(CancellationToken cancel);
}
