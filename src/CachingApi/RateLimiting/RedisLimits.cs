using CachingApi.Redis;
using CachingApi.RequestState;

namespace CachingApi.RateLimiting;

/// <summary>
/// The limits' states in Redis (the state server). One call decides on all policies of a request that share a slot; without a Redis
/// Cluster, all of them do.
/// </summary>
/// <remarks>
/// After a failure, no request uses Redis for 200 ms; then one request in each 200 ms tries again. So only a few requests wait for an
/// unavailable Redis, and none of them longer than <see cref="RedisOptions.StateDeadline"/>.
/// </remarks>
internal sealed partial class RedisLimits(RedisConnections redis, StateCalls calls, TimeProvider time, ILogger<RedisLimits> log)
{
    private static readonly TimeSpan RetryAfter = TimeSpan.FromMilliseconds(200);

    /// <summary>The timestamp of the last failure or attempt; 0 while Redis answers.</summary>
    private long _failed;

    public string KeyPrefix => redis.KeyPrefix;

    /// <summary>Whether the state server is a Redis Cluster, so that a session and its user's permits are in two slots.</summary>
    public bool IsCluster => redis.State.Multiplexer.HashSlot(KeyPrefix) >= 0;

    /// <summary>Requests permits.</summary>
    /// <returns>The answer to each request, <c>null</c> if Redis is unavailable; and the requests whose permits were acquired.</returns>
    public async Task<(Permits?[] Answers, PermitRequest[] Acquired)> AcquireAsync(PermitRequest[] requests, CancellationToken cancel)
    {
        var multiplexer = redis.State.Multiplexer;
        if (requests.Length == 1 || requests.All(request => multiplexer.HashSlot(request.Key) == multiplexer.HashSlot(requests[0].Key)))
        {
            var answers = await AcquireInSlotAsync(requests, cancel);
            return (answers, Acquired(requests, answers));
        }

        // Another slot may deny the request, so a refund must be able to name the server that granted these permits.
        requests = Array.ConvertAll(requests, request => request with { IsRefundable = true });
        var slots = requests.GroupBy(request => multiplexer.HashSlot(request.Key)).Select(slot => slot.ToArray()).ToArray();
        var results = await Task.WhenAll(slots.Select(slot => AcquireInSlotAsync(slot, cancel)));
        var byRequest = slots.Zip(results).SelectMany(slot => slot.First.Zip(slot.Second)).ToDictionary();
        return (
            [.. requests.Select(request => byRequest[request])],
            [.. slots.Zip(results).SelectMany(slot => Acquired(slot.First, slot.Second))]);
    }

    /// <summary>
    /// Refunds permits. Redis ignores the refund if another server or another window granted them. If Redis is unavailable, the permits are
    /// lost, so the limit still holds.
    /// </summary>
    public Task RefundAsync(PermitRequest[] acquired) => acquired.Length == 0
        ? Task.CompletedTask
        : AcquireAsync([.. acquired.Select(request => request with { Cost = -request.Cost })], CancellationToken.None);

    /// <summary>The requests whose permits were acquired: all or none, as the script decides.</summary>
    private static PermitRequest[] Acquired(PermitRequest[] requests, Permits?[] answers) =>
        !answers.All(answer => answer is { Granted: true }) ? []
        : !requests[0].IsRefundable ? requests
        : [.. requests.Zip(answers, (request, answer) => request with { Grant = answer!.Value.Grant })];

    private async Task<Permits?[]> AcquireInSlotAsync(PermitRequest[] requests, CancellationToken cancel)
    {
        if (!MayAsk())
        {
            PermitLeases.Asked(requests);
            return new Permits?[requests.Length];
        }

        try
        {
            var reply = await calls.SendAsync(new(null, requests), cancel);
            Answered();
            return Array.ConvertAll(reply.Permits, permits => (Permits?)permits);
        }
        catch (UnavailableException outage)
        {
            Failed(outage);
            return new Permits?[requests.Length];
        }
    }

    private bool MayAsk()
    {
        var failed = Volatile.Read(ref _failed);
        return failed == 0
            || (time.GetElapsedTime(failed) >= RetryAfter
                && Interlocked.CompareExchange(ref _failed, time.GetTimestamp(), failed) == failed);
    }

    private void Answered()
    {
        if (Volatile.Read(ref _failed) != 0 && Interlocked.Exchange(ref _failed, 0) != 0)
        {
            Log.Back(log);
        }
    }

    private void Failed(UnavailableException outage)
    {
        if (Interlocked.Exchange(ref _failed, time.GetTimestamp()) == 0)
        {
            Log.Away(log, outage.InnerException?.Message ?? outage.Message);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "Redis does not decide on rate limits; the OnStoreFailure of each policy applies: {Reason}")]
        public static partial void Away(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Information, "Redis decides on rate limits again")]
        public static partial void Back(ILogger log);
    }
}
