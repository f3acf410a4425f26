using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;
using System.Text;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using CachingApi.Sessions;
using StackExchange.Redis;

namespace CachingApi.RequestState;

/// <summary>What a request needs from the state server. All keys are in one slot.</summary>
/// <param name="Session">The session to read; <c>null</c> if none is.</param>
/// <param name="Permits">The permits to acquire: all or none, and none if the session does not exist.</param>
internal readonly record struct StateRequest(SessionUse? Session, PermitRequest[] Permits)
{
    public RedisKey Key => Session is { } session ? session.Key : Permits[0].Key;
}

/// <summary>A session to read.</summary>
/// <param name="Transport">A session of another transport acquires no permits.</param>
/// <param name="Idle">The configured idle limit, in milliseconds.</param>
/// <param name="NoteUse">After how many milliseconds its use is recorded again, at most.</param>
internal sealed record SessionUse(RedisKey Key, RedisKey Revoked, SessionTransport Transport, long Idle, long NoteUse);

/// <summary>The answer to a <see cref="StateRequest"/>.</summary>
/// <param name="Session">The session's fields; <c>null</c> if it does not exist.</param>
/// <param name="Permits">Empty if the session does not exist.</param>
internal readonly record struct StateReply(string[]? Session, Permits[] Permits);

/// <summary>
/// One script call returns all that a request needs from the state server: its session, then its permits. It serves all requests of that
/// moment together (on a Redis Cluster, those of one slot). The clock is that of Redis, so that all processes use the same time.
/// </summary>
internal sealed class StateCalls(RedisConnections redis)
{
    private const int MaxTogether = 64;

    /// <summary>How many arguments of the script a policy has.</summary>
    private const int PolicyArguments = 7;

    private static readonly string Script = string.Concat(
        Algorithm.Functions,
        Lua.Load(typeof(StateCalls), "rate_limit.lua"),
        Lua.Load(typeof(StateCalls), "session_use.lua"),
        Lua.Load(typeof(StateCalls), "state_call.lua"));

    /// <summary>The script's name in Redis, so that the library does not hash the text at each call.</summary>
    [SuppressMessage("Security", "CA5350", Justification = "Redis names scripts by their SHA-1.")]
    private static readonly byte[] ScriptHash = SHA1.HashData(Encoding.UTF8.GetBytes(Script));

    private readonly Coalescer<StateRequest, StateReply> _calls =
        new(redis.State.Multiplexer, () => MaxTogether, request => request.Key, requests => CallAsync(redis.State, requests));

    /// <exception cref="UnavailableException">Redis is unavailable.</exception>
    public async Task<StateReply> SendAsync(StateRequest request, CancellationToken cancel)
    {
        var isSent = false;
        try
        {
            return await redis.OnStateAsync(
                _ =>
                {
                    isSent = true;
                    return _calls.SendAsync(request);
                },
                cancel);
        }
        finally
        {
            if (!isSent)
            {
                PermitLeases.Asked(request.Permits);
            }
        }
    }

    /// <remarks>
    /// This method keeps the leases, not the request: the request may have been cancelled, or may have given up, before the reply arrives.
    /// </remarks>
    private static async Task<StateReply[]> CallAsync(IDatabase state, StateRequest[] requests)
    {
        try
        {
            var (keys, arguments) = Call(requests);
            var replies = (RedisResult[])(await RunAsync(state, keys, arguments))!;
            return Read(requests, (long[])replies[0]!, replies.AsSpan(1));
        }
        finally
        {
            Array.ForEach(requests, request => PermitLeases.Asked(request.Permits));
        }
    }

    private static (RedisKey[] Keys, RedisValue[] Arguments) Call(StateRequest[] requests)
    {
        var keys = new List<RedisKey>(3 * requests.Length);
        var arguments = new List<RedisValue>(1 + requests.Length * (4 + PolicyArguments)) { 0 };
        foreach (var (session, permits) in requests)
        {
            arguments.Add(permits.Length);
            if (session is null)
            {
                arguments.Add(RedisValue.EmptyString);
            }
            else
            {
                keys.AddRange([session.Key, session.Revoked]);
                arguments.AddRange([session.Transport.ToString(), session.Idle, session.NoteUse]);
            }

            foreach (var policy in permits)
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

    private static async Task<RedisResult> RunAsync(IDatabase state, RedisKey[] keys, RedisValue[] arguments)
    {
        try
        {
            return await state.ScriptEvaluateAsync(ScriptHash, keys, arguments);
        }
        catch (RedisServerException error) when (error.Message.StartsWith("NOSCRIPT", StringComparison.Ordinal))
        {
            return await state.ScriptEvaluateAsync(Script, keys, arguments);
        }
    }

    private static StateReply[] Read(StateRequest[] requests, ReadOnlySpan<long> permits, ReadOnlySpan<RedisResult> sessions)
    {
        var grant = new Grant(permits[0], permits[1]);
        permits = permits[2..];
        var replies = new StateReply[requests.Length];
        for (var index = 0; index < replies.Length; index++)
        {
            var (used, requested) = requests[index];
            string[]? session = null;
            var acquires = true;
            if (used is not null)
            {
                session = sessions[0].IsNull ? null : (string[]?)sessions[0];
                sessions = sessions[1..];
                acquires = session?[2] == used.Transport.ToString();
            }

            replies[index] = new(session, acquires ? Read(requested, permits, grant) : []);
            permits = permits[(4 * requested.Length)..];
        }

        return replies;
    }

    private static Permits[] Read(PermitRequest[] requests, ReadOnlySpan<long> reply, Grant grant)
    {
        var permits = new Permits[requests.Length];
        for (var index = 0; index < permits.Length; index++)
        {
            var answer = reply.Slice(4 * index, 4);
            permits[index] = new(answer[0], answer[1], answer[2]) { Grant = grant };
            if (answer[3] > 0 && requests[index].Lease is { } lease)
            {
                lease.Partition.Granted(lease, (int)answer[3], permits[index]);
            }
        }

        return permits;
    }
}
