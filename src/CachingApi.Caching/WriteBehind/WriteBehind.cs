using System.ComponentModel.DataAnnotations;
using CachingApi.Redis;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>The section <c>WriteBehind</c>.</summary>
public sealed class WriteBehindOptions : IValidatableObject
{
    /// <summary>The maximum number of waiting writes; beyond that, writes are synchronous.</summary>
    [Range(1, 10_000_000)]
    public int Capacity { get; set; } = 100_000;

    /// <summary>The maximum number of writes that one statement persists.</summary>
    [Range(1, 2_000)]
    public int BatchSize { get; set; } = 200;

    /// <summary>How many attempts a write that the database refuses has before it becomes a dead letter.</summary>
    [Range(1, 20)]
    public int MaxAttempts { get; set; } = 5;

    /// <summary>
    /// Whether a write is acknowledged only when it is on the disk of Redis, if the server supports WAITAOF: see <see cref="AofBarrier"/>.
    /// </summary>
    public bool WaitForDisk { get; set; } = true;

    /// <summary>How many replicas of Redis must have a write on their disks, too, before it is acknowledged.</summary>
    [Range(0, 5)]
    public int WaitForReplicas { get; set; }

    /// <inheritdoc/>
    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext) => WaitForReplicas > 0 && !WaitForDisk
        ? [new("WaitForReplicas requires that WaitForDisk is true", [nameof(WaitForReplicas)])]
        : [];
}

internal enum AcceptState
{
    /// <summary>The write is in the queue and will be persisted even if this process dies.</summary>
    Accepted = 0,

    /// <summary>The queue is full.</summary>
    Full = 1,

    /// <summary>The entity's version is not one of the expected versions.</summary>
    VersionMismatch = 2,

    /// <summary>A synchronous write is under way: only the database has the version.</summary>
    Contended = 3,

    /// <summary>Redis might lose the queue: see <see cref="WriteBehind.DisabledReason"/>.</summary>
    Refused = 4,
}

/// <param name="Version">The version that the write gives the entity.</param>
/// <param name="Token">Its fencing token.</param>
internal readonly record struct AcceptedWrite(AcceptState State, long Version, long Token = 0);

/// <summary>A write that has been acknowledged and may not be in the database yet.</summary>
/// <param name="Over">The highest fence that it may overwrite.</param>
internal sealed record PendingWrite(long Token, long Version, long Over, ReadOnlyMemory<byte> Value)
{
    /// <summary>
    /// Whether a row of this version and fence has neither this write nor a later one. A later fence does not suffice, because it
    /// may be foreign (see <see cref="WriteBehindQueue.ReacceptAsync"/>): a later write has a later version, too.
    /// </summary>
    public bool LiesOver(Revision row) => row.Fence <= Over || (row.Version <= Version && row.Fence != Token);
}

/// <summary>
/// Write-behind: a write is acknowledged when it is in a durable queue, and persisted later (see <see cref="WriteBehindConsumer"/>).
/// Until then its value is pending: each load of the row applies it.
/// </summary>
/// <remarks>
/// All writes of an entity, synchronous ones too, are ordered by a fencing token that Redis issues (Kleppmann, "How to do
/// distributed locking", 2016). The row keeps the token of its last write, and refuses earlier ones. So, of one entity:
/// 1. write 1 is acknowledged and waits in the queue;
/// 2. write 2, a synchronous one, acquires its token and commits;
/// 3. a consumer persists write 1: its token is earlier than the row's, so it changes nothing.
/// A consumer that stalls, dies or persists a write twice cannot break that order, nor can several consumers at once.
/// </remarks>
internal sealed class WriteBehind(
    WriteBehindQueue queue,
    RedisConnections redis,
    IOptions<WriteBehindOptions> options,
    WriteBehindMetrics metrics)
    : IAsyncDisposable
{
    private static readonly string Accept = Lua.Load(typeof(WriteBehind), "write_behind_accept.lua");
    private static readonly string Turn = Lua.Load(typeof(WriteBehind), "write_behind_fence.lua");
    private static readonly string Settle = Lua.Load(typeof(WriteBehind), "write_behind_confirm.lua");

    public WriteBehindQueue Queue => queue;

    public AofBarrier Barrier { get; } = new(redis, queue, options);

    /// <summary>See <see cref="WriteBehindSettings.RequiredBy"/>.</summary>
    public string? RequiredBy { get; init; }

    /// <summary>Whether a Redis is configured.</summary>
    public bool IsPossible => redis.IsConfigured;

    /// <summary>Why write-behind is disabled; <c>null</c> if it is not.</summary>
    public string? DisabledReason { get; set; } = "the maxmemory-policy of Redis is not known yet";

    /// <summary>Takes a write into the queue.</summary>
    /// <param name="known">
    /// The entity's version and the row's fence as the caller has read them, perhaps from a cache; 0 means that the fence is not known. The
    /// write's token will be later.
    /// </param>
    /// <param name="versions">The versions that may be changed; <c>null</c> for any.</param>
    /// <exception cref="UnavailableException">Redis is away, or its disk is slow: it is not known whether Redis took the write.</exception>
    public async Task<AcceptedWrite> AcceptAsync(
        string id, Revision known, IReadOnlyCollection<long>? versions, byte[] value, CancellationToken cancel)
    {
        if (DisabledReason is not null)
        {
            return Fallback(AcceptState.Refused, "refused");
        }

        RedisKey[] keys = [queue.Key, queue.LastToken, queue.Entity(id)];
        RedisValue[] arguments =
        [
            queue.Capacity, id, known.Version, queue.Plausible(known.Fence),
            versions is null ? "" : $",{string.Join(',', versions)},", value,
        ];
        var result = (long[])(await redis.OnStateAsync(state => state.ScriptEvaluateAsync(Accept, keys, arguments), cancel))!;
        switch ((AcceptState)result[0])
        {
            case AcceptState.Full:
                return Fallback(AcceptState.Full, "full");
            case AcceptState.Contended:
                return Fallback(AcceptState.Contended, "contended");
            case AcceptState.Accepted:
                queue.Signal();
                await Barrier.WaitForFsyncAsync(cancel);
                break;
        }

        return new((AcceptState)result[0], result[1], result[2]);
    }

    /// <summary>Issues the fencing token of a synchronous write, which the writer acquires before its statement.</summary>
    /// <param name="knownFence">
    /// The row's fence as the writer has seen it; the token will be later. 0 if it is not known.
    /// </param>
    /// <exception cref="UnavailableException">Redis is away, so pending writes are not known.</exception>
    public async Task<WriteFence> AcquireFenceAsync(string id, long knownFence, CancellationToken cancel)
    {
        RedisValue[] arguments = [queue.Plausible(knownFence), WriteBehindQueue.KeptMilliseconds];
        var turn = (long[])(await redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(Turn, [queue.LastToken, queue.Entity(id)], arguments), cancel))!;
        return new(turn[0], turn[1], turn[2], turn[3], turn[4]);
    }

    /// <summary>
    /// Confirms the version of a synchronous write after its commit. Best effort: skipping it only leaves gaps in version numbers.
    /// </summary>
    public async Task ConfirmAsync(string id, long version, CancellationToken cancel)
    {
        try
        {
            await redis.OnStateAsync(
                state => state.ScriptEvaluateAsync(Settle, [queue.Entity(id)], [version, WriteBehindQueue.KeptMilliseconds]), cancel);
        }
        catch (UnavailableException)
        {
            // The write is committed, and nothing depends on this.
        }
    }

    /// <summary>An entity was deleted: see <see cref="WriteBehindQueue.ForgetAsync"/>.</summary>
    public Task ForgetAsync(string id, CancellationToken cancel) => queue.ForgetAsync(id, cancel);

    /// <summary>The pending write of an entity.</summary>
    /// <remarks>
    /// Call it before reading the row. In the other order: 1. the row is read; 2. a write is persisted and no longer pending; 3. no pending
    /// write is found, and the old row is served as the current value.
    /// </remarks>
    /// <exception cref="UnavailableException">Redis is away, so neither the pending write nor the entity's value is known.</exception>
    public async Task<PendingWrite?> PendingAsync(string id, CancellationToken cancel)
    {
        var held = await redis.OnStateAsync(state => state.HashGetAsync(queue.Entity(id), ["token", "version", "over", "value"]), cancel);
        return held[0].IsNull
            ? null
            : new((long)held[0], (long)held[1], held[2].IsNull ? (long)held[0] - 1 : (long)held[2], (byte[])held[3]!);
    }

    public ValueTask DisposeAsync()
    {
        queue.Dispose();
        return Barrier.DisposeAsync();
    }

    private AcceptedWrite Fallback(AcceptState state, string reason)
    {
        metrics.FellBack(queue.Cache, reason);
        return new(state, 0);
    }
}
