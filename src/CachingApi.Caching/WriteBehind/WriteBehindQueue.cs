using System.Globalization;
using CachingApi.Caching.Operations;
using CachingApi.Redis;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>The decision about a write whose row has a fence that the write may not overwrite.</summary>
internal enum FencedWrite
{
    /// <summary>The row has a later write, which this state server ordered after it.</summary>
    Superseded = 0,

    /// <summary>
    /// The row has a later version, under a fence that this state server did not issue: it is not known which write is later. Or the fence
    /// is the write's own, because a consumer began to give it up and ended before it was a dead letter.
    /// </summary>
    Unknown = 1,

    /// <summary>The fence is foreign, and the write is in the queue again, under a later token.</summary>
    Reaccepted = 2,

    /// <summary>The write is no longer in the queue, because another consumer has handled it.</summary>
    Gone = 3,

    /// <summary>The row has the write: its consumer ended before the queue knew that.</summary>
    Persisted = 4,
}

/// <summary>A write that leaves the queue.</summary>
/// <param name="Version">The version that the entity has now.</param>
/// <param name="Reason">Why the write is a dead letter; <c>null</c> if it is not.</param>
internal readonly record struct FinishedWrite(QueuedWrite Write, long Version, string? Reason = null);

/// <summary>
/// The queue of write-behind: a Redis stream on the state server, read by a consumer group, and the stream of dead letters.
/// </summary>
/// <remarks>
/// The id of an entry is its write's token. All processes read under one consumer name, because only the time for which an entry has
/// been pending matters, not which process took it.
/// </remarks>
/// <param name="cache">The cache whose writes it holds.</param>
/// <param name="name">The name of the queue in Redis.</param>
internal sealed class WriteBehindQueue(
    string cache,
    string name,
    RedisConnections redis,
    IOptions<WriteBehindOptions> options,
    TimeProvider time)
    : IDisposable
{
    /// <summary>
    /// For how long the last version issued to an entity is kept: longer than any process serves an older one.
    /// </summary>
    public const long KeptMilliseconds = 10_000;

    /// <summary>
    /// How far, in microseconds, a fence may be ahead of a clock: a year. A fence beyond that cannot come from a state server, so it does
    /// not order writes; otherwise one such row could exhaust the tokens.
    /// </summary>
    public const long MaxLead = 365L * 24 * 3600 * 1_000_000;

    private const string Group = "writers";
    private const int MaxDeadLetters = 10_000;

    /// <summary>The maximum number of dead letters of one entity.</summary>
    public const int MaxDeadLettersOfOne = 20;

    private static readonly TimeSpan DeadKnownFor = TimeSpan.FromDays(30);

    private static readonly string FinishScript = Lua.Load(typeof(WriteBehindQueue), "write_behind_finish.lua");
    private static readonly string GiveUpScript = Lua.Load(typeof(WriteBehindQueue), "write_behind_give_up.lua");
    private static readonly string ReacceptScript = Lua.Load(typeof(WriteBehindQueue), "write_behind_reaccept.lua");
    private static readonly string ForgetScript = Lua.Load(typeof(WriteBehindQueue), "write_behind_forget.lua");

    /// <summary>An entry that is pending for this long can be claimed by any consumer.</summary>
    private static readonly TimeSpan ClaimAfter = TimeSpan.FromSeconds(5);

    private readonly SemaphoreSlim _signal = new(0, 1);

    public string Cache => cache;

    public int Capacity => options.Value.Capacity;

    public RedisKey Key => Name("queue");

    /// <summary>The token that was issued last.</summary>
    public RedisKey LastToken => Name("token");

    /// <summary>The key that <see cref="AofBarrier"/> writes.</summary>
    public RedisKey DiskMark => Name("disk");

    private RedisKey DeadLetters => Name("dead-letters");

    /// <summary>The ids of an entity's dead letters, the oldest first.</summary>
    private RedisKey DeadLettersOf(string id) => Name($"thing:{id}:dead-letters");

    /// <summary>The state of an entity: its pending value and the versions that were issued.</summary>
    public RedisKey Entity(string id) => Name($"thing:{id}");

    /// <summary>
    /// The fence, which a new token must be later than; 0 if it is further ahead of the clock than <see cref="MaxLead"/>.
    /// </summary>
    public long Plausible(long fence) => fence > (time.GetUtcNow() - DateTimeOffset.UnixEpoch).TotalMicroseconds + MaxLead ? 0 : fence;

    /// <summary>Wakes the consumer of this process.</summary>
    public void Signal()
    {
        if (_signal.CurrentCount == 0)
        {
            try
            {
                _signal.Release();
            }
            catch (SemaphoreFullException)
            {
                // Another writer has already signalled.
            }
        }
    }

    /// <summary>Waits for <see cref="Signal"/>, but no longer than <paramref name="wait"/>.</summary>
    public Task SignalledAsync(TimeSpan wait, CancellationToken cancel) => _signal.WaitAsync(wait, cancel);

    public Task CreateAsync(CancellationToken cancel) => redis.OnStateAsync(
        async state =>
        {
            try
            {
                return await state.StreamCreateConsumerGroupAsync(Key, Group, StreamPosition.Beginning, createStream: true);
            }
            catch (RedisServerException error) when (error.Message.StartsWith("BUSYGROUP", StringComparison.Ordinal))
            {
                return false;
            }
        },
        cancel);

    /// <summary>Writes that no consumer has taken yet.</summary>
    public async Task<IReadOnlyList<QueuedWrite>> ReadAsync(int count, CancellationToken cancel) =>
        Writes(await redis.OnStateAsync(state => state.StreamReadGroupAsync(Key, Group, Group, StreamPosition.NewMessages, count), cancel));

    /// <summary>Writes that a consumer has taken and not acknowledged, perhaps because its process has died.</summary>
    public async Task<IReadOnlyList<QueuedWrite>> ClaimAsync(int count, CancellationToken cancel)
    {
        var claimed = await redis.OnStateAsync(
            state => state.StreamAutoClaimAsync(Key, Group, Group, (long)ClaimAfter.TotalMilliseconds, StreamPosition.Beginning, count),
            cancel);
        return Writes(claimed.ClaimedEntries);
    }

    /// <summary>Takes writes off the queue; returns how many of them became dead letters.</summary>
    public Task<int> FinishAsync(IReadOnlyList<FinishedWrite> finished, CancellationToken cancel)
    {
        RedisKey[] keys = [Key, DeadLetters, .. finished.Select(done => Entity(done.Write.Id))];
        RedisValue[] arguments =
        [
            Group, KeptMilliseconds, MaxDeadLetters, MaxDeadLettersOfOne,
            .. finished.SelectMany(done => new RedisValue[] { done.Write.Token, done.Version, done.Reason ?? "" }),
        ];
        return redis.OnStateAsync(async state => (int)await state.ScriptEvaluateAsync(FinishScript, keys, arguments), cancel);
    }

    /// <summary>A write is about to be given up: its row's version and fence will not be those of a write any more.</summary>
    /// <param name="row">The row's revision now.</param>
    /// <remarks>
    /// 1. write 1 is persisted, and its consumer dies before it has finished it; 2. write 2 is persisted; 3. write 3 is refused and given
    /// up, and its token becomes the row's fence; 4. write 1 is claimed. Without the version that the row had at step 3, it would not be
    /// known that the row has write 2, and write 1 would replace it.
    /// </remarks>
    public Task GiveUpAsync(QueuedWrite write, Revision row, CancellationToken cancel) => redis.OnStateAsync(
        state => state.ScriptEvaluateAsync(
            GiveUpScript, [Entity(write.Id)], [write.Token, row.Version, row.Fence, (long)DeadKnownFor.TotalMilliseconds]),
        cancel);

    /// <summary>Decides, in one step, about a write whose row has a fence that the write may not overwrite.</summary>
    /// <param name="fence">The row's fence.</param>
    /// <param name="version">The row's version.</param>
    /// <remarks>
    /// A fence is foreign if another state server has issued it, whose clock was ahead or whose state was lost, or if an operator has
    /// written it. Such a fence does not show whether the row has a later write. The version does: while a write waits, this server gives
    /// every later write of the entity a later version. A later version means a later write only if this server has issued the fence.
    /// Otherwise the write becomes a dead letter, because persisting it could undo a write that this server has lost.
    /// A write that is accepted anew keeps its version and its place: it may overwrite the foreign fence, but no fence issued after it.
    /// <para>A synchronous write meanwhile: 1. write 1 waits, and the row has a foreign fence; 2. write 2, a synchronous one, takes a
    /// token later than that; 3. write 1 is accepted anew, under a token later still; 4. write 2 commits; 5. write 1 may not overwrite
    /// the fence of write 2, whose version is later: it is superseded. If write 2 fails, step 5 finds the foreign fence and persists
    /// write 1.</para>
    /// <para>Two consumers: 1. both hold write 1 and find a foreign fence; 2. the script accepts it anew for the first; 3. for the second
    /// it finds no entry and changes nothing. The same holds if the first dies after step 2: the queue has the write once.</para>
    /// <para>An earlier write: 1. writes 1 and 2 wait, and the database refuses write 2; 2. write 1 is accepted anew, under a later token
    /// than that of write 2, and is persisted; 3. write 2 finds the fence of write 1, and the row's version is not later than its own: it
    /// is accepted anew. So the version, not the token, orders the queued writes of an entity.</para>
    /// <para>The same after a write was given up: 1. writes 1, 2 and 3 wait; 2. write 3 is given up, which gives the row a version later
    /// than those of all three; 3. write 2 is accepted anew, and the database refuses it for now; 4. write 1 is accepted anew and
    /// persisted, which gives the row a version later still; 5. write 2 finds the fence of write 1. The version of write 1 counts, not
    /// that of the row.</para>
    /// <para>An expired record: 1. a consumer takes write 1 and freezes; 2. another persists write 2, and nothing is pending; 3. the
    /// entity's record expires; 4. write 1 is claimed, and the last token issued to the entity is not known. Then the fence counts as
    /// issued if it is not later than the clock and the last token of all.</para>
    /// </remarks>
    public async Task<FencedWrite> ReacceptAsync(QueuedWrite write, long fence, long version, CancellationToken cancel)
    {
        RedisKey[] keys = [Key, LastToken, Entity(write.Id)];
        RedisValue[] arguments =
            [Group, write.Token, write.Version, fence, version, KeptMilliseconds, (long)DeadKnownFor.TotalMilliseconds];
        return (FencedWrite)(int)await redis.OnStateAsync(state => state.ScriptEvaluateAsync(ReacceptScript, keys, arguments), cancel);
    }

    public async Task<QueueState> StateAsync(CancellationToken cancel)
    {
        var length = redis.OnStateAsync(state => state.StreamLengthAsync(Key), cancel);
        var dead = redis.OnStateAsync(state => state.StreamLengthAsync(DeadLetters), cancel);
        var first = Writes(await redis.OnStateAsync(state => state.StreamRangeAsync(Key, count: 1), cancel));
        var lag = first.Length == 0 ? TimeSpan.Zero : time.GetUtcNow() - first[0].AcceptedAt;
        return new(await length, lag < TimeSpan.Zero ? TimeSpan.Zero : lag, await dead);
    }

    /// <summary>The eviction policy of Redis when its memory is full, such as <c>allkeys-lru</c>.</summary>
    public async Task<string?> EvictionPolicyAsync(CancellationToken cancel)
    {
        var info = await redis.OnStateAsync(state => state.Multiplexer.GetServer(Key).InfoAsync("memory"), cancel);
        return info.SelectMany(section => section).FirstOrDefault(line => line.Key == "maxmemory_policy").Value;
    }

    /// <summary>Dead letters, the latest first.</summary>
    public async Task<IReadOnlyList<DeadLetter>> DeadLettersAsync(int count, CancellationToken cancel) =>
        [
            .. (await redis.OnStateAsync(
                state => state.StreamRangeAsync(DeadLetters, count: count, messageOrder: Order.Descending), cancel)).Select(Letter),
        ];

    public async Task<DeadLetter?> DeadLetterAsync(string id, CancellationToken cancel) =>
        (await redis.OnStateAsync(state => state.StreamRangeAsync(DeadLetters, id, id), cancel)).Select(Letter).SingleOrDefault();

    /// <summary>Drops a dead letter; <c>false</c> if none has this id.</summary>
    public async Task<bool> DropAsync(string id, CancellationToken cancel)
    {
        if (await DeadLetterAsync(id, cancel) is not { } letter)
        {
            return false;
        }

        await redis.OnStateAsync(state => state.ListRemoveAsync(DeadLettersOf(letter.Write.Id), id), cancel);
        return await redis.OnStateAsync(state => state.StreamDeleteAsync(DeadLetters, [(RedisValue)id]), cancel) == 1L;
    }

    /// <summary>
    /// After the deletion of an entity: drops its dead letters. Its writes that are still queued will not become dead letters.
    /// </summary>
    public Task ForgetAsync(string id, CancellationToken cancel) => redis.OnStateAsync(
        state => state.ScriptEvaluateAsync(
            ForgetScript, [DeadLetters, DeadLettersOf(id), Entity(id)], [(long)DeadKnownFor.TotalMilliseconds]),
        cancel);

    public void Dispose() => _signal.Dispose();

    /// <summary>The braces put all keys of the queue into one slot of a Redis Cluster, because one script uses several of them.</summary>
    private RedisKey Name(string part) => $"{{{redis.KeyPrefix}:{name}}}:{part}";

    private static QueuedWrite[] Writes(StreamEntry[] entries) => [.. entries.Where(entry => !entry.IsNull).Select(Write)];

    private static QueuedWrite Write(StreamEntry entry) => WriteOf(entry, Token(entry.Id));

    /// <remarks>An entry of an older build has neither <c>over</c> nor <c>at</c>; its token is the time in microseconds.</remarks>
    private static QueuedWrite WriteOf(StreamEntry entry, long token) => new(
        token,
        entry["id"]!,
        (long)entry["version"],
        entry["over"].IsNull ? token - 1 : (long)entry["over"],
        DateTimeOffset.UnixEpoch.AddMicroseconds(entry["at"].IsNull ? token : (long)entry["at"]),
        (byte[])entry["value"]!);

    private static DeadLetter Letter(StreamEntry entry) => new(
        entry.Id!,
        DateTimeOffset.FromUnixTimeMilliseconds(Token(entry.Id)),
        entry["reason"]!,
        WriteOf(entry, (long)entry["token"]));

    private static long Token(RedisValue id) => long.Parse(id.ToString().Split('-')[0], CultureInfo.InvariantCulture);
}
