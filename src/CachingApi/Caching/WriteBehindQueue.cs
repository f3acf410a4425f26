using System.Globalization;
using CachingApi.Storage;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>A write as it lies in the queue.</summary>
/// <param name="Token">Its fencing token: its place among all writes of the thing.</param>
/// <param name="Version">The version that it was acknowledged with.</param>
internal sealed record QueuedWrite(long Token, string Id, long Version, ReadOnlyMemory<byte> Value);

/// <summary>A write that could not be persisted.</summary>
/// <param name="LetterId">Its id among the dead letters.</param>
/// <param name="DiedAt">When it was given up.</param>
/// <param name="Reason">Why.</param>
internal sealed record DeadLetter(string LetterId, DateTimeOffset DiedAt, string Reason, QueuedWrite Write)
{
    /// <summary>When it was acknowledged: tokens are microseconds.</summary>
    public DateTimeOffset AcceptedAt => WriteBehindQueue.TimeOf(Write.Token);
}

/// <summary>A write that is done with.</summary>
/// <param name="Version">The version that the thing has now.</param>
/// <param name="Reason">Why the write is dead; <c>null</c> where it is not.</param>
internal readonly record struct FinishedWrite(QueuedWrite Write, long Version, string? Reason = null);

/// <summary>The queue of write-behind: a Redis stream on the state server, read by a consumer group, and the stream of dead letters.</summary>
/// <remarks>
/// The id of an entry is its write's token. All processes read under one consumer's name: whose an entry was does not matter,
/// only for how long nobody has finished it.
/// </remarks>
internal sealed class WriteBehindQueue(Redis redis, IOptions<WriteBehindOptions> options, TimeProvider time) : IDisposable
{
    /// <summary>
    /// For how long it is known which version a thing was given last: longer than any process shows an older one.
    /// </summary>
    public const long KeptMilliseconds = 10_000;

    private const string Group = "writers";
    private const int MaxDeadLetters = 10_000;

    private static readonly string FinishScript = Lua.Load("write_behind_finish.lua");

    /// <summary>An entry that nobody has finished for this long is anybody's.</summary>
    private static readonly TimeSpan ClaimAfter = TimeSpan.FromSeconds(5);

    private readonly SemaphoreSlim _signal = new(0, 1);

    public int Capacity => options.Value.Capacity;

    public RedisKey Key { get; } = Name(redis, "queue");

    /// <summary>The token that was given out last.</summary>
    public RedisKey LastToken { get; } = Name(redis, "token");

    /// <summary>What <see cref="DiskBarrier"/> writes.</summary>
    public RedisKey DiskMark { get; } = Name(redis, "disk");

    private RedisKey DeadLetters { get; } = Name(redis, "dead-letters");

    /// <summary>What is known of a thing: its pending value, and the versions given out.</summary>
    public RedisKey Thing(string id) => Name(redis, $"thing:{id}");

    public static DateTimeOffset TimeOf(long token) => DateTimeOffset.UnixEpoch.AddMicroseconds(token);

    /// <summary>Tells the consumer of this process that there is something to do.</summary>
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
                // Another writer was faster.
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

    /// <summary>Writes that nobody has taken yet.</summary>
    public async Task<IReadOnlyList<QueuedWrite>> ReadAsync(int count, CancellationToken cancel) =>
        Writes(await redis.OnStateAsync(state => state.StreamReadGroupAsync(Key, Group, Group, StreamPosition.NewMessages, count), cancel));

    /// <summary>Writes that somebody has taken and not finished, in a process that has died perhaps.</summary>
    public async Task<IReadOnlyList<QueuedWrite>> ClaimAsync(int count, CancellationToken cancel)
    {
        var claimed = await redis.OnStateAsync(
            state => state.StreamAutoClaimAsync(Key, Group, Group, (long)ClaimAfter.TotalMilliseconds, StreamPosition.Beginning, count), cancel);
        return Writes(claimed.ClaimedEntries);
    }

    public Task FinishAsync(IReadOnlyList<FinishedWrite> finished, CancellationToken cancel)
    {
        RedisKey[] keys = [Key, DeadLetters, .. finished.Select(done => Thing(done.Write.Id))];
        RedisValue[] arguments =
        [
            Group, KeptMilliseconds, MaxDeadLetters,
            .. finished.SelectMany(done => new RedisValue[] { done.Write.Token, done.Version, done.Reason ?? "" }),
        ];
        return redis.OnStateAsync(state => state.ScriptEvaluateAsync(FinishScript, keys, arguments), cancel);
    }

    public async Task<QueueState> StateAsync(CancellationToken cancel)
    {
        var length = redis.OnStateAsync(state => state.StreamLengthAsync(Key), cancel);
        var dead = redis.OnStateAsync(state => state.StreamLengthAsync(DeadLetters), cancel);
        var first = Writes(await redis.OnStateAsync(state => state.StreamRangeAsync(Key, count: 1), cancel));
        var lag = first.Length == 0 ? TimeSpan.Zero : time.GetUtcNow() - TimeOf(first[0].Token);
        return new(await length, lag < TimeSpan.Zero ? TimeSpan.Zero : lag, await dead);
    }

    /// <summary>What Redis does when its memory is full, such as <c>allkeys-lru</c>.</summary>
    public async Task<string?> EvictionPolicyAsync(CancellationToken cancel)
    {
        var info = await redis.OnStateAsync(state => state.Multiplexer.GetServer(Key).InfoAsync("memory"), cancel);
        return info.SelectMany(section => section).FirstOrDefault(line => line.Key == "maxmemory_policy").Value;
    }

    /// <summary>Dead letters, the latest first.</summary>
    public async Task<IReadOnlyList<DeadLetter>> DeadLettersAsync(int count, CancellationToken cancel) =>
        [.. (await redis.OnStateAsync(state => state.StreamRangeAsync(DeadLetters, count: count, messageOrder: Order.Descending), cancel)).Select(Letter)];

    public async Task<DeadLetter?> DeadLetterAsync(string id, CancellationToken cancel) =>
        (await redis.OnStateAsync(state => state.StreamRangeAsync(DeadLetters, id, id), cancel)).Select(Letter).SingleOrDefault();

    /// <summary><c>false</c> where there is no such dead letter.</summary>
    public async Task<bool> DropAsync(string id, CancellationToken cancel) =>
        await redis.OnStateAsync(state => state.StreamDeleteAsync(DeadLetters, [(RedisValue)id]), cancel) == 1L;

    public void Dispose() => _signal.Dispose();

    /// <summary>The braces put all of it into one slot of a Redis Cluster, as one script touches several of them.</summary>
    private static RedisKey Name(Redis redis, string name) => $"{{{redis.KeyPrefix}:write-behind}}:{name}";

    private static QueuedWrite[] Writes(StreamEntry[] entries) => [.. entries.Where(entry => !entry.IsNull).Select(Write)];

    private static QueuedWrite Write(StreamEntry entry) => new(Token(entry.Id), entry["id"]!, (long)entry["version"], (byte[])entry["value"]!);

    private static DeadLetter Letter(StreamEntry entry) => new(
        entry.Id!,
        DateTimeOffset.FromUnixTimeMilliseconds(Token(entry.Id)),
        entry["reason"]!,
        new((long)entry["token"], entry["id"]!, (long)entry["version"], (byte[])entry["value"]!));

    private static long Token(RedisValue id) => long.Parse(id.ToString().Split('-')[0], CultureInfo.InvariantCulture);
}
