using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Text;
using StackExchange.Redis;

#pragma warning disable CA1822 // The library calls them as members of an object.

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>The commands of the client that the library uses.</summary>
[StandsFor("StackExchange.Redis.IDatabase")]
[StandsFor("StackExchange.Redis.IDatabaseAsync")]
[StandsFor("StackExchange.Redis.IRedisAsync")]
internal sealed class SimulatedDatabase(SimulatedMultiplexer connection)
{
    private static readonly byte[] Eval = Bytes("EVAL");

    /// <summary>The bytes of each script, which its processes share: see <see cref="LuaScripts.Run"/>.</summary>
    private static readonly ConcurrentDictionary<string, byte[]> Scripts = new(ReferenceEqualityComparer.Instance);

    public SimulatedMultiplexer Multiplexer => connection;

    public int Database => 0;

    public async Task<RedisResult> ScriptEvaluateAsync(
        string script, RedisKey[]? keys = null, RedisValue[]? values = null, CommandFlags flags = CommandFlags.None) => Result(
            await connection.SendAsync([
                Eval, ScriptBytes(script), Number(keys?.Length ?? 0),
                .. (keys ?? []).Select(key => (byte[])key!), .. (values ?? []).Select(Bytes),
            ]));

    public async Task<RedisResult> ScriptEvaluateAsync(
        byte[] hash, RedisKey[]? keys = null, RedisValue[]? values = null, CommandFlags flags = CommandFlags.None) => Result(
            await connection.SendAsync([
                Bytes("EVALSHA"), Bytes(Convert.ToHexString(hash)), Number(keys?.Length ?? 0),
                .. (keys ?? []).Select(key => (byte[])key!), .. (values ?? []).Select(Bytes),
            ]));

    public async Task<RedisValue> StringGetAsync(RedisKey key, CommandFlags flags = CommandFlags.None) =>
        Value(await connection.SendAsync(Bytes("GET"), key!));

    public async Task<RedisValue[]> StringGetAsync(RedisKey[] keys, CommandFlags flags = CommandFlags.None) =>
        Values(await connection.SendAsync([Bytes("MGET"), .. keys.Select(key => (byte[])key!)]));

    public async Task<bool> StringSetAsync(
        RedisKey key,
        RedisValue value,
        SimulatedExpiration expiry = default,
        ValueCondition when = default,
        CommandFlags flags = CommandFlags.None) =>
        await connection.SendAsync([
            Bytes("SET"), key!, Bytes(value),
            .. expiry.Time is { } time ? new[] { Bytes("PX"), Number((long)time.TotalMilliseconds) } : [],
        ]) is not null;

    public async Task<TimeSpan?> KeyTimeToLiveAsync(RedisKey key, CommandFlags flags = CommandFlags.None) =>
        await connection.SendAsync(Bytes("PTTL"), key!) is long and >= 0 and var left ? TimeSpan.FromMilliseconds(left) : null;

    public async Task<bool> KeyExistsAsync(RedisKey key, CommandFlags flags = CommandFlags.None) =>
        await connection.SendAsync(Bytes("EXISTS"), key!) is 1L;

    public async Task<RedisValue[]> HashGetAsync(RedisKey key, RedisValue[] hashFields, CommandFlags flags = CommandFlags.None) =>
        Values(await connection.SendAsync([Bytes("HMGET"), key!, .. hashFields.Select(Bytes)]));

    public async Task<long> ListRemoveAsync(RedisKey key, RedisValue value, long count = 0, CommandFlags flags = CommandFlags.None) =>
        (long)(await connection.SendAsync(Bytes("LREM"), key!, Number(count), Bytes(value)))!;

    public async Task<long> StreamLengthAsync(RedisKey key, CommandFlags flags = CommandFlags.None) =>
        (long)(await connection.SendAsync(Bytes("XLEN"), key!))!;

    public async Task<long> StreamDeleteAsync(RedisKey key, RedisValue[] messageIds, CommandFlags flags = CommandFlags.None) =>
        (long)(await connection.SendAsync([Bytes("XDEL"), key!, .. messageIds.Select(Bytes)]))!;

    public async Task<StreamEntry[]> StreamRangeAsync(
        RedisKey key,
        RedisValue? minId = null,
        RedisValue? maxId = null,
        int? count = null,
        Order messageOrder = Order.Ascending,
        CommandFlags flags = CommandFlags.None)
    {
        var (first, last) = (Bytes(minId ?? "-"), Bytes(maxId ?? "+"));
        var ascends = messageOrder is Order.Ascending;
        return Entries(await connection.SendAsync([
            Bytes(ascends ? "XRANGE" : "XREVRANGE"), key!, ascends ? first : last, ascends ? last : first,
            .. count is { } most ? new[] { Bytes("COUNT"), Number(most) } : [],
        ]));
    }

    public async Task<bool> StreamCreateConsumerGroupAsync(
        RedisKey key, RedisValue groupName, RedisValue? position, bool createStream, CommandFlags flags = CommandFlags.None) =>
        await connection.SendAsync(
            Bytes("XGROUP"), Bytes("CREATE"), key!, Bytes(groupName), Bytes(Position(position, "0-0")), Bytes("MKSTREAM")) is not null;

    public async Task<StreamEntry[]> StreamReadGroupAsync(
        RedisKey key,
        RedisValue groupName,
        RedisValue consumerName,
        RedisValue? position,
        int? count,
        bool noAck = false,
        TimeSpan? claimMinIdleTime = null,
        CommandFlags flags = CommandFlags.None) =>
        await connection.SendAsync(
            Bytes("XREADGROUP"), Bytes("GROUP"), Bytes(groupName), Bytes(consumerName), Bytes("COUNT"), Number(count!.Value),
            Bytes("STREAMS"), key!, Bytes(Position(position, ">"))) is object?[] streams
            ? Entries(((object?[])streams[0]!)[1])
            : [];

    public async Task<SimulatedClaim> StreamAutoClaimAsync(
        RedisKey key,
        RedisValue consumerGroup,
        RedisValue claimingConsumer,
        long minIdleTimeInMs,
        RedisValue startAtId,
        int? count = null,
        CommandFlags flags = CommandFlags.None) =>
        new(Entries(((object?[])(await connection.SendAsync(
            Bytes("XAUTOCLAIM"), key!, Bytes(consumerGroup), Bytes(claimingConsumer), Number(minIdleTimeInMs), Bytes(startAtId),
            Bytes("COUNT"), Number(count!.Value)))!)[1]));

    public static RedisResult Result(object? reply) => reply switch
    {
        null => RedisResult.Create(RedisValue.Null),
        long number => RedisResult.Create(number, ResultType.Integer),
        byte[] bytes => RedisResult.Create(bytes, ResultType.BulkString),
        RedisStatus status => RedisResult.Create(status.Text, ResultType.SimpleString),
        object?[] items => RedisResult.Create(Array.ConvertAll(items, Result)),
        _ => throw new NotSupportedException($"{reply} is not a reply."),
    };

    /// <summary>The bytes of a script.</summary>
    internal static byte[] ScriptBytes(string script) => Scripts.GetOrAdd(script, Bytes);

    private static byte[] Bytes(RedisValue value) => (byte[])value!;

    private static byte[] Bytes(string text) => Encoding.UTF8.GetBytes(text);

    private static byte[] Number(long number) => Bytes(number.ToString(CultureInfo.InvariantCulture));

    /// <remarks>The client has its own values for the beginning of a stream and for its new entries.</remarks>
    private static RedisValue Position(RedisValue? position, string otherwise) =>
        position is { IsNull: false } at && at != StreamPosition.NewMessages && at != StreamPosition.Beginning ? at : otherwise;

    private static RedisValue Value(object? reply) => reply is byte[] bytes ? bytes : RedisValue.Null;

    private static RedisValue[] Values(object? reply) => Array.ConvertAll((object?[])reply!, Value);

    private static StreamEntry[] Entries(object? reply) => Array.ConvertAll((object?[])reply!, entry =>
    {
        var (id, fields) = (Value(((object?[])entry!)[0]), (object?[])((object?[])entry!)[1]!);
        return new StreamEntry(
            id, [.. fields.Chunk(2).Select(pair => new NameValueEntry(Value(pair[0]), Value(pair[1])))]);
    });
}

/// <summary>The server as the client sees it.</summary>
[StandsFor("StackExchange.Redis.IServer")]
internal sealed class SimulatedServer(SimulatedMultiplexer connection)
{
    public EndPoint EndPoint { get; } = new DnsEndPoint(connection.Redis.Name, 6379);

    public bool IsConnected => connection.IsConnected;

    public bool IsReplica => false;

    public ServerType ServerType => ServerType.Standalone;

    public ClusterConfiguration? ClusterConfiguration => null;

    public async Task<RedisResult> ExecuteAsync(string command, params object[] args)
    {
        connection.Sender = args[^1].ToString()!.Split(' ')[0]; // of a heartbeat, which is the only command that is sent so
        return SimulatedDatabase.Result(await connection.SendAsync([
            Encoding.UTF8.GetBytes(command),
            .. args.Select((arg, place) => arg is RedisKey key ? (byte[])key!
                : place == 0 ? SimulatedDatabase.ScriptBytes(arg.ToString()!)
                : Encoding.UTF8.GetBytes(arg.ToString()!)),
        ]));
    }

    public async Task<string?> InfoRawAsync(RedisValue section = default, CommandFlags flags = CommandFlags.None)
    {
        await connection.SendAsync("PUBLISH"u8.ToArray(), "info"u8.ToArray(), []);
        return connection.Redis.Info;
    }

    public async Task<IGrouping<string, KeyValuePair<string, string>>[]> InfoAsync(
        RedisValue section = default, CommandFlags flags = CommandFlags.None)
    {
        await connection.SendAsync("PUBLISH"u8.ToArray(), "info"u8.ToArray(), []);
        return [.. new[] { KeyValuePair.Create("maxmemory_policy", "noeviction") }.GroupBy(_ => "Memory")];
    }

    public Task<ClusterConfiguration?> ClusterNodesAsync(CommandFlags flags = CommandFlags.None) =>
        Task.FromResult<ClusterConfiguration?>(null);
}

/// <summary>The client's subscriptions.</summary>
[StandsFor("StackExchange.Redis.ISubscriber")]
internal sealed class SimulatedSubscriber(SimulatedMultiplexer connection)
{
    public Task<SimulatedQueue> SubscribeAsync(RedisChannel channel, CommandFlags flags = CommandFlags.None)
    {
        var queue = new SimulatedQueue(connection);
        connection.Subscribe((string)channel!, queue);
        return Task.FromResult(queue);
    }
}

/// <summary>The messages of one subscription, which the library reads in order.</summary>
[StandsFor("StackExchange.Redis.ChannelMessageQueue")]
internal sealed class SimulatedQueue(SimulatedMultiplexer connection) : IAsyncEnumerable<SimulatedMessage>
{
    private readonly Queue<byte[]> _messages = new();
    private TaskCompletionSource? _wait;
    private bool _hasEnded;

    public void Add(byte[] message)
    {
        _messages.Enqueue(message);
        _wait?.TrySetResult();
    }

    public void End()
    {
        _hasEnded = true;
        _wait?.TrySetResult();
    }

    public Task UnsubscribeAsync(CommandFlags flags = CommandFlags.None)
    {
        connection.Unsubscribe(this);
        return Task.CompletedTask;
    }

    public async IAsyncEnumerator<SimulatedMessage> GetAsyncEnumerator(CancellationToken cancellationToken = default)
    {
        while (!_hasEnded)
        {
            while (_messages.TryDequeue(out var message))
            {
                yield return new(message);
            }

            _wait = new(TaskCreationOptions.RunContinuationsAsynchronously);
            await _wait.Task;
        }
    }
}

/// <summary>A message of a subscription.</summary>
[StandsFor("StackExchange.Redis.ChannelMessage")]
internal readonly struct SimulatedMessage(byte[] message)
{
    public RedisValue Message => message;
}

/// <summary>The time to live of a key.</summary>
[StandsFor("StackExchange.Redis.Expiration")]
internal readonly struct SimulatedExpiration
{
    public TimeSpan? Time { get; init; }

    public static implicit operator SimulatedExpiration(TimeSpan time) => new() { Time = time };
}

/// <summary>The entries that <c>XAUTOCLAIM</c> has claimed.</summary>
[StandsFor("StackExchange.Redis.StreamAutoClaimResult")]
internal readonly struct SimulatedClaim(StreamEntry[] entries)
{
    public StreamEntry[] ClaimedEntries => entries;
}
