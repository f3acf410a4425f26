using CachingApi.Storage;
using StackExchange.Redis;

namespace CachingApi.RateLimiting;

/// <summary>
/// The limits' states in Redis (the state server), where one script decides on all policies of a request that share a slot:
/// outside of a Redis Cluster all do. The clock is Redis's own, so that all processes agree on what time it is.
/// </summary>
/// <remarks>
/// Redis that does not answer is left alone for a moment, then one request in each moment tries again: who waits for it in vain
/// are a few, and not for longer than <see cref="RedisOptions.StateDeadline"/>.
/// </remarks>
internal sealed partial class RedisLimits(Redis redis, TimeProvider time, ILogger<RedisLimits> log)
{
    private const int MaxTogether = 64;

    private static readonly TimeSpan LeaveAloneFor = TimeSpan.FromMilliseconds(200);

    /// <summary>Requests of the same time are decided by one call of the script, one after the other.</summary>
    private readonly Coalescer<Demand[], Permits[]> _requests =
        new(redis.State.Multiplexer, () => MaxTogether, request => request[0].Key, requests => DecideAsync(redis.State, requests));

    /// <summary>The timestamp of the last failure or trial; 0 while Redis answers.</summary>
    private long _failed;

    public string KeyPrefix => redis.KeyPrefix;

    /// <summary>Asks for permits.</summary>
    /// <returns>The answer to each demand, <c>null</c> where Redis is away; and the demands that have been spent.</returns>
    public async Task<(Permits?[] Answers, Demand[] Spent)> SpendAsync(Demand[] demands, CancellationToken cancel)
    {
        var multiplexer = redis.State.Multiplexer;
        if (demands.Length == 1 || demands.All(demand => multiplexer.HashSlot(demand.Key) == multiplexer.HashSlot(demands[0].Key)))
        {
            var answers = await SpendInSlotAsync(demands, cancel);
            return (answers, Spent(demands, answers));
        }

        var slots = demands.GroupBy(demand => multiplexer.HashSlot(demand.Key)).Select(slot => slot.ToArray()).ToArray();
        var results = await Task.WhenAll(slots.Select(slot => SpendInSlotAsync(slot, cancel)));
        var byDemand = slots.Zip(results).SelectMany(slot => slot.First.Zip(slot.Second)).ToDictionary();
        return ([.. demands.Select(demand => byDemand[demand])], [.. slots.Zip(results).SelectMany(slot => Spent(slot.First, slot.Second))]);
    }

    /// <summary>Gives permits back. Where Redis is gone meanwhile they are lost, which errs on the strict side.</summary>
    public Task GiveBackAsync(Demand[] spent) => spent.Length == 0
        ? Task.CompletedTask
        : SpendAsync([.. spent.Select(demand => demand with { Cost = -demand.Cost })], CancellationToken.None);

    /// <summary>The script spends all or nothing.</summary>
    private static Demand[] Spent(Demand[] demands, Permits?[] answers) =>
        answers.All(answer => answer is { Granted: true }) ? demands : [];

    private async Task<Permits?[]> SpendInSlotAsync(Demand[] demands, CancellationToken cancel)
    {
        if (!MayAsk())
        {
            return new Permits?[demands.Length];
        }

        try
        {
            var permits = await redis.OnStateAsync(_ => _requests.SendAsync(demands), cancel);
            Answered();
            return Array.ConvertAll(permits, permit => (Permits?)permit);
        }
        catch (UnavailableException outage)
        {
            Failed(outage);
            return new Permits?[demands.Length];
        }
    }

    private static async Task<Permits[][]> DecideAsync(IDatabase state, Demand[][] requests)
    {
        var keys = new List<RedisKey>(requests.Length);
        var arguments = new List<RedisValue>(requests.Length * 5);
        foreach (var request in requests)
        {
            arguments.Add(request.Length);
            foreach (var (policy, key, cost) in request)
            {
                keys.Add(key);
                arguments.AddRange([policy.Algorithm, policy.Limit, policy.WindowMilliseconds, cost]);
            }
        }

        var reply = (long[])(await RunAsync(state, [.. keys], [.. arguments]))!;
        var at = 0;
        return Array.ConvertAll(requests, request => Array.ConvertAll(request, _ => new Permits(reply[at++], reply[at++], reply[at++])));
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
            || (time.GetElapsedTime(failed) >= LeaveAloneFor && Interlocked.CompareExchange(ref _failed, time.GetTimestamp(), failed) == failed);
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
        [LoggerMessage(1, LogLevel.Warning, "Redis does not decide on limits, the policies' OnStoreFailure does: {Reason}")]
        public static partial void Away(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Information, "Redis decides on limits again")]
        public static partial void Back(ILogger log);
    }
}
