using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.RateLimiting;

/// <summary>
/// The limits' states in Redis (the state server). One script decides on all policies of a request that share a slot; without a Redis
/// Cluster, all of them do. The clock is that of Redis, so that all processes use the same time.
/// </summary>
/// <remarks>
/// After a failure, no request uses Redis for 200 ms; then one request in each 200 ms tries again. So only a few requests wait for an
/// unavailable Redis, and none of them longer than <see cref="RedisOptions.StateDeadline"/>.
/// </remarks>
internal sealed partial class RedisLimits(RedisConnections redis, TimeProvider time, ILogger<RedisLimits> log)
{
    private const int MaxTogether = 64;

    private static readonly TimeSpan RetryAfter = TimeSpan.FromMilliseconds(200);

    /// <summary>One call of the script decides simultaneous requests, one after the other.</summary>
    private readonly Coalescer<PermitRequest[], Permits[]> _calls =
        new(redis.State.Multiplexer, () => MaxTogether, request => request[0].Key, requests => DecideAsync(redis.State, requests));

    /// <summary>The timestamp of the last failure or attempt; 0 while Redis answers.</summary>
    private long _failed;

    public string KeyPrefix => redis.KeyPrefix;

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
        Task<Permits[]>? call = null;
        try
        {
            if (!MayAsk())
            {
                return new Permits?[requests.Length];
            }

            var permits = await redis.OnStateAsync(_ => call = _calls.SendAsync(requests), cancel);
            Answered();
            return Array.ConvertAll(permits, permit => (Permits?)permit);
        }
        catch (UnavailableException outage)
        {
            Failed(outage);
            return new Permits?[requests.Length];
        }
        finally
        {
            if (call is null)
            {
                EndLeaseRequests(requests);
            }
        }
    }

    /// <remarks>
    /// This method keeps the lease, not the request: the request may have been cancelled, or may have given up, before the reply arrives.
    /// </remarks>
    private static async Task<Permits[][]> DecideAsync(IDatabase state, PermitRequest[][] requests)
    {
        try
        {
            var (keys, arguments) = Call(requests);
            var reply = (long[])(await RunAsync(state, keys, arguments))!;
            var (grant, at) = (new Grant(reply[0], reply[1]), 2);
            return Array.ConvertAll(requests, request => Array.ConvertAll(request, policy =>
            {
                var permits = new Permits(reply[at++], reply[at++], reply[at++]) { Grant = grant };
                if (reply[at++] is > 0 and var leased && policy.Lease is { } lease)
                {
                    lease.Partition.Granted(lease, (int)leased, permits);
                }

                return permits;
            }));
        }
        finally
        {
            Array.ForEach(requests, EndLeaseRequests);
        }
    }

    private static (RedisKey[] Keys, RedisValue[] Arguments) Call(PermitRequest[][] requests)
    {
        var keys = new List<RedisKey>(requests.Length);
        var arguments = new List<RedisValue>(1 + requests.Length * 8) { 0 };
        foreach (var request in requests)
        {
            arguments.Add(request.Length);
            foreach (var policy in request)
            {
                keys.Add(policy.Key);
                arguments.AddRange([
                    policy.Policy.Algorithm, policy.Policy.Limit, policy.Policy.WindowMilliseconds, policy.Cost,
                    policy.Lease?.Further ?? 0, policy.Grant.Time, policy.Grant.Server,
                ]);
                if (policy.IsRefundable || policy.Lease is not null || policy.Cost < 0)
                {
                    arguments[0] = 1;
                }
            }
        }

        return ([.. keys], [.. arguments]);
    }

    private static void EndLeaseRequests(PermitRequest[] requests)
    {
        foreach (var request in requests)
        {
            request.Lease?.Partition.Asked();
        }
    }

    private static async Task<RedisResult> RunAsync(IDatabase state, RedisKey[] keys, RedisValue[] arguments)
    {
        try
        {
            return await state.ScriptEvaluateAsync(Algorithm.ScriptHash, keys, arguments);
        }
        catch (RedisServerException error) when (error.Message.StartsWith("NOSCRIPT", StringComparison.Ordinal))
        {
            return await state.ScriptEvaluateAsync(Algorithm.Script, keys, arguments);
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
