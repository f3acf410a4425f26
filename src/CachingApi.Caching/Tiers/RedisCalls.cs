using CachingApi.Redis;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Calls to the cache's Redis. Each ends within the deadline, none is made while the circuit is open, and an outage is a result, not an
/// exception.
/// </summary>
internal sealed partial class RedisCalls(
    RedisConnections redis,
    CircuitBreaker circuit,
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<RedisCalls> log)
{
    private static readonly TimeSpan ProbeTtl = TimeSpan.FromSeconds(1);

    private readonly TimeSpan _deadline = options.Value.RedisDeadline;

    /// <summary>Whether Redis answers, by the last calls.</summary>
    public bool IsReachable => !circuit.IsOpen;

    /// <summary>Whether Redis answers, and has answered long enough for other processes to replay their invalidations.</summary>
    public bool IsSettled => !circuit.IsOpen && !circuit.IsSettling;

    /// <summary>The reason of the last failed call.</summary>
    public string LastFailure { get; private set; } = "Redis has not answered yet.";

    /// <summary>Makes a call.</summary>
    /// <param name="operation">Its name in metrics and traces.</param>
    public async Task<(bool Answered, T? Value)> TryAsync<T>(
        string operation, Func<IDatabase, Task<T>> command, CancellationToken cancel)
    {
        if (circuit.IsOpen)
        {
            return default;
        }

        var start = time.GetTimestamp();
        using var span = Traces.StartRedis(operation);
        try
        {
            var value = await command(redis.Cache).WaitAsync(_deadline, cancel);
            circuit.Succeeded();
            return (true, value);
        }
        catch (Exception error) when (RedisConnections.IsOutage(error))
        {
            circuit.Failed();
            LastFailure = RedisConnections.Reason(error);
            span.Failed(error);
            Log.Failed(log, operation, error.GetType().Name);
            return default;
        }
        finally
        {
            metrics.Operation("redis", operation, time.GetElapsedTime(start));
        }
    }

    /// <summary>
    /// Whether every master answers and takes writes. A master that is full, read-only or cannot save still answers reads, but it may hold
    /// entries that other processes could not invalidate.
    /// </summary>
    public async Task<bool> ProbeAsync(CancellationToken cancel)
    {
        try
        {
            var writes = redis.KeysOnShards("probe").Select(key => redis.Cache.StringSetAsync(key, "", ProbeTtl));
            await Task.WhenAll(writes).WaitAsync(_deadline, cancel);
            return true;
        }
        catch (Exception error) when (RedisConnections.IsOutage(error))
        {
            LastFailure = RedisConnections.Reason(error);
            if (error.Message.StartsWith("READONLY", StringComparison.Ordinal))
            {
                await FindMasterAsync(cancel);
            }

            return false;
        }
    }

    private async Task FindMasterAsync(CancellationToken cancel)
    {
        try
        {
            await redis.FindMasterAsync().WaitAsync(ProbeTtl, cancel);
        }
        catch (Exception error) when (RedisConnections.IsOutage(error))
        {
            Log.Failed(log, "the search for the master", error.GetType().Name);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Debug, "Redis did not answer {Operation}: {Reason}")]
        public static partial void Failed(ILogger log, string operation, string reason);
    }
}
