using System.ComponentModel.DataAnnotations;
using CachingApi.Storage;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>The section <c>WriteBehind</c>.</summary>
internal sealed class WriteBehindOptions : IValidatableObject
{
    /// <summary>How many writes may wait at most; beyond that they are written synchronously.</summary>
    [Range(1, 10_000_000)]
    public int Capacity { get; init; } = 100_000;

    /// <summary>How many writes one statement persists at most.</summary>
    [Range(1, 2_000)]
    public int BatchSize { get; init; } = 200;

    /// <summary>How often a write is tried that the database refuses, before it becomes a dead letter.</summary>
    [Range(1, 20)]
    public int MaxAttempts { get; init; } = 5;

    /// <summary>Whether a write is acknowledged only when it is on the disk of Redis, where the server can tell: see <see cref="DiskBarrier"/>.</summary>
    public bool WaitForDisk { get; init; } = true;

    /// <summary>How many replicas of Redis must have a write on their disks, too, before it is acknowledged.</summary>
    [Range(0, 5)]
    public int WaitForReplicas { get; init; }

    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext) => WaitForReplicas > 0 && !WaitForDisk
        ? [new("WaitForReplicas has an effect only if WaitForDisk is true", [nameof(WaitForReplicas)])]
        : [];
}

internal enum AcceptState
{
    /// <summary>It is in the queue: it will be persisted, whatever becomes of this process.</summary>
    Accepted = 0,

    /// <summary>The queue holds as many as it may.</summary>
    Full = 1,

    /// <summary>The thing has another version than those that may be changed.</summary>
    VersionMismatch = 2,

    /// <summary>A synchronous writer is about: only the database can tell the version.</summary>
    Contended = 3,

    /// <summary>Redis might lose the queue: see <see cref="WriteBehind.Refusal"/>.</summary>
    Refused = 4,
}

/// <param name="Version">The version that the write gives the thing.</param>
/// <param name="Token">Its fencing token.</param>
internal readonly record struct AcceptedWrite(AcceptState State, long Version, long Token = 0);

/// <summary>A synchronous writer's place among the writes of a thing.</summary>
/// <param name="Token">A fencing token: the row keeps that of its last write, and nothing with an earlier one changes it.</param>
/// <param name="Version">The version to give the row at least; 0 for the row's plus 1.</param>
/// <param name="PendingToken">Of the write that is pending before it; 0 where none is.</param>
/// <param name="PendingVersion">The version of that.</param>
/// <param name="PendingOver">The highest fence that it may overwrite; -1 if none is pending.</param>
internal readonly record struct WriteTurn(long Token, long Version, long PendingToken, long PendingVersion, long PendingOver);

/// <summary>A write that has been acknowledged and may not be in the database yet.</summary>
/// <param name="Over">The highest fence that it may overwrite.</param>
internal sealed record PendingWrite(long Token, long Version, long Over, ReadOnlyMemory<byte> Value)
{
    /// <summary>
    /// Whether a row of this version and fence has neither this write nor a later one. A later fence does not suffice, because it
    /// may be foreign (see <see cref="WriteBehindQueue.ReacceptAsync"/>): a later write has a later version, too.
    /// </summary>
    public bool LiesOver(long version, long fence) => fence <= Over || (version <= Version && fence != Token);
}

/// <summary>
/// Write-behind: a write is acknowledged when it is in a durable queue, and persisted later (see <see cref="WriteBehindConsumer"/>).
/// Until then its value is pending: it lies over the row for whoever loads that.
/// </summary>
/// <remarks>
/// All writes of a thing, synchronous ones too, are ordered by a fencing token that Redis gives out (Kleppmann, "How to do
/// distributed locking", 2016). The row keeps the token of its last write, and refuses earlier ones. So, of one thing:
/// 1. write 1 is acknowledged and waits in the queue;
/// 2. write 2, a synchronous one, takes its turn and commits;
/// 3. a consumer comes to write 1: its token is earlier than the row's, so it changes nothing.
/// A consumer that stalls, dies or does a write twice cannot break that order, and neither can several at once.
/// </remarks>
internal sealed class WriteBehind(WriteBehindQueue queue, DiskBarrier disk, Redis redis, WriteBehindMetrics metrics)
{
    private static readonly string Accept = Lua.Load("write_behind_accept.lua");
    private static readonly string Turn = Lua.Load("write_behind_turn.lua");
    private static readonly string Settle = Lua.Load("write_behind_settle.lua");

    /// <summary>Why nothing is written behind, if so.</summary>
    public string? Refusal { get; set; } = "Redis has not said yet whether it might evict the queue";

    /// <summary>Takes a write into the queue.</summary>
    /// <param name="knownVersion">The thing's version as the caller has read it, from a cache perhaps.</param>
    /// <param name="knownFence">
    /// The row's fence as the caller has read it, from a cache perhaps; 0 if it is not known. The write's token will be later.
    /// </param>
    /// <param name="versions">The versions that may be changed; <c>null</c> for any.</param>
    /// <exception cref="UnavailableException">Redis is away, or its disk: whether the write was taken is not known.</exception>
    public async Task<AcceptedWrite> AcceptAsync(
        string id, long knownVersion, long knownFence, long[]? versions, byte[] value, CancellationToken cancel)
    {
        if (Refusal is not null)
        {
            return Fallback(AcceptState.Refused, "refused");
        }

        RedisKey[] keys = [queue.Key, queue.LastToken, queue.Thing(id)];
        RedisValue[] arguments = [queue.Capacity, id, knownVersion, queue.Plausible(knownFence), versions is null ? "" : $",{string.Join(',', versions)},", value];
        var result = (long[])(await redis.OnStateAsync(state => state.ScriptEvaluateAsync(Accept, keys, arguments), cancel))!;
        switch ((AcceptState)result[0])
        {
            case AcceptState.Full:
                return Fallback(AcceptState.Full, "full");
            case AcceptState.Contended:
                return Fallback(AcceptState.Contended, "contended");
            case AcceptState.Accepted:
                queue.Signal();
                await disk.PassAsync(cancel);
                break;
        }

        return new((AcceptState)result[0], result[1], result[2]);
    }

    /// <summary>Gives a synchronous writer its turn, which it takes before its statement.</summary>
    /// <param name="knownFence">The row's fence as the writer has seen it, which the token must be later than; 0 if it is not known.</param>
    /// <exception cref="UnavailableException">Redis is away: what is pending is not known.</exception>
    public async Task<WriteTurn> TakeTurnAsync(string id, long knownFence, CancellationToken cancel)
    {
        RedisValue[] arguments = [queue.Plausible(knownFence), WriteBehindQueue.KeptMilliseconds];
        var turn = (long[])(await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(Turn, [queue.LastToken, queue.Thing(id)], arguments), cancel))!;
        return new(turn[0], turn[1], turn[2], turn[3], turn[4]);
    }

    /// <summary>After a synchronous writer's commit: tells the version. Without it, versions may be left out, and nothing else.</summary>
    public async Task SettleAsync(string id, long version, CancellationToken cancel)
    {
        try
        {
            await redis.OnStateAsync(
                state => state.ScriptEvaluateAsync(Settle, [queue.Thing(id)], [version, WriteBehindQueue.KeptMilliseconds]), cancel);
        }
        catch (UnavailableException)
        {
            // The write is committed, and nothing depends on this.
        }
    }

    /// <summary>What lies over a thing's row.</summary>
    /// <remarks>
    /// To be asked for before the row is read. The other way round: 1. the row is read; 2. a write is persisted and is pending
    /// no more; 3. nothing is found pending, and the old row is taken for the truth.
    /// </remarks>
    /// <exception cref="UnavailableException">Redis is away: what is pending is not known, so neither is the thing.</exception>
    public async Task<PendingWrite?> PendingAsync(string id, CancellationToken cancel)
    {
        var held = await redis.OnStateAsync(state => state.HashGetAsync(queue.Thing(id), ["token", "version", "over", "value"]), cancel);
        return held[0].IsNull ? null : new((long)held[0], (long)held[1], held[2].IsNull ? (long)held[0] - 1 : (long)held[2], (byte[])held[3]!);
    }

    private AcceptedWrite Fallback(AcceptState state, string reason)
    {
        metrics.FellBack(reason);
        return new(state, 0);
    }
}
