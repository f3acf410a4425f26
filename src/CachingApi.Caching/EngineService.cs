namespace CachingApi.Caching;

/// <summary>
/// A service of the engine that runs until its host ends. A host that is disposed without a stop would take the cancellation for a fault.
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
            // The host ends.
        }
    }

    protected abstract Task RunAsync(CancellationToken cancel);
}
