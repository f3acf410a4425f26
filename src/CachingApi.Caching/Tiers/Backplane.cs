using System.Collections.Concurrent;
using System.Globalization;
using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>A message between processes.</summary>
internal enum BackplaneEvent
{
    /// <summary>An entity has a new version: write-through or invalidation.</summary>
    Invalidated,

    /// <summary>A cache has a new generation.</summary>
    Cleared,

    /// <summary>A load that another process waits for has ended, and the loaded value is in Redis.</summary>
    Filled,

    /// <summary>A load that another process waits for has failed.</summary>
    Failed,

    /// <summary>A process tests the channel. Other processes ignore it.</summary>
    Heartbeat,

    /// <summary>A tag was removed, and with it the entries that carry it. The id is the tag, the number its new stamp.</summary>
    TagRemoved,
}

/// <param name="Number">The version or the generation.</param>
/// <param name="Fence">With a version, the fencing token of its write.</param>
internal readonly record struct BackplaneMessage(BackplaneEvent Event, string Cache, string Id, long Number, long Fence)
{
    public Revision Revision => new(Number, Fence);
}

/// <summary>
/// Carries messages between processes over Redis pub/sub. The scripts publish in the same step in which they write, so no process can
/// die between the two.
/// </summary>
/// <remarks>
/// Pub/sub delivers at most once, and the client library reports neither a lost message nor a subscription that is in force. So each
/// process sends itself heartbeats in the channel of the messages, four per second, through every master. On a cluster, a message starts
/// at the master that has the key, and reaches this process over the cluster bus and the node that it is subscribed at. The channel is
/// trusted while, for every master, a heartbeat that was sent less than a second ago has come back. Messages of one master arrive in
/// order, so all earlier ones have been received by then.
/// <para>A heartbeat carries the epoch in which it was sent. Each failed or restored connection begins a new epoch, because:</para>
/// 1. the subscription's connection fails and is restored;
/// 2. another process writes version 2, and its message is lost because the subscription is not in force yet;
/// 3. the subscription is in force, and a heartbeat comes back.
/// Only a heartbeat of the current epoch restores trust, and <see cref="Interrupted"/> is raised before that: a reader may have read
/// version 1 before step 2, and must not keep it after step 3.
/// <para>The heartbeats through a master are numbered. A missing number is an interruption, too: if a link between two nodes of a cluster
/// fails, or a master is killed, messages are lost although every connection of this process works. Heartbeats that only arrive late
/// suspend trust without an interruption: the messages before them arrive in order, so memory is still correct.</para>
/// <para>A heartbeat is also a write. A master that refuses writes (it is full, read-only, or cannot save) answers reads and publishes, but
/// holds entries that no process can invalidate. So no process uses Redis until that master takes writes again.</para>
/// </remarks>
internal sealed partial class Backplane(RedisConnections redis, CircuitBreaker circuit, ILogger<Backplane> log) : EngineService
{
    /// <summary>For how long a heartbeat proves that the channel works, from the time at which it was sent.</summary>
    private const long TrustedFor = 1000;

    /// <summary>The subscription is replaced if no heartbeat arrives for this long although Redis accepts them.</summary>
    private const long ResubscribeAfter = 5000;

    private const int ClusterSlots = 16384;
    private const int TicksPerLookup = 4;

    private static readonly string Heartbeat = Lua.Load(typeof(Backplane), "heartbeat.lua");
    private static readonly TimeSpan HeartbeatInterval = TimeSpan.FromMilliseconds(250);

    private readonly string _sender = Guid.NewGuid().ToString("N");
    private readonly ConcurrentDictionary<(string Cache, string Id), TaskCompletionSource<bool>> _waits = new();

    // It guards the epoch, the masters and all changes of trust, so that an older state never overwrites a newer one.
    private readonly Lock _gate = new();
    private Dictionary<string, Master> _masters = [];
    private long _epoch;
    private bool _isInterrupted = true;
    private volatile ChannelMessageQueue? _subscription;

    // All times are from the machine's clock, not from the injected one, because connections fail in real time. It costs a few nanoseconds.
    private long _trustedUntil = redis.IsConfigured ? long.MinValue : long.MaxValue;
    private long _unansweredSince;
    private volatile string? _refusal;

    /// <summary>Another process changed something, or any process has begun a new generation.</summary>
    public event Action<BackplaneMessage>? Received;

    /// <summary>
    /// Messages may have been lost, so entries that were read before are no longer valid. Raised before trust is restored; until then,
    /// caches that depend on messages do not use memory. The handlers run inside a lock and must be short.
    /// </summary>
    public event Action? Interrupted;

    /// <summary>
    /// The channel that the scripts publish in. Pub/sub has no databases, so the name contains the database's number if that is not 0.
    /// </summary>
    public string Channel { get; } = redis.IsConfigured && redis.Cache.Database > 0
        ? $"{redis.KeyPrefix}:backplane:{redis.Cache.Database}"
        : $"{redis.KeyPrefix}:backplane";

    private string HeartbeatKey { get; } = $"{redis.KeyPrefix}:heartbeat";

    /// <summary>Whether this process has received every message that was sent until a second ago.</summary>
    /// <remarks>Always true if no Redis is configured, because there is no other process.</remarks>
    public bool IsTrusted => Environment.TickCount64 < Volatile.Read(ref _trustedUntil);

    /// <summary>A revision as messages hold it.</summary>
    public static string Number(Revision revision) => string.Create(CultureInfo.InvariantCulture, $"{revision.Version}.{revision.Fence}");

    /// <summary>A message as the scripts publish it.</summary>
    public string Message(BackplaneEvent what, string cache, string id, string number) =>
        string.Create(CultureInfo.InvariantCulture, $"{_sender} {(int)what} {cache} {number} {id}");

    /// <summary>
    /// Ends when another process's load has ended: <c>true</c> if it succeeded, <c>false</c> if it failed. Call it before asking for the
    /// lease, so that no message is missed between the two; end it by <see cref="CancelWait"/>.
    /// </summary>
    public Task<bool> WaitForLoad(string cache, string id) =>
        _waits.GetOrAdd((cache, id), static _ => new(TaskCreationOptions.RunContinuationsAsynchronously)).Task;

    public void CancelWait(string cache, string id, Task<bool> expected)
    {
        if (_waits.TryGetValue((cache, id), out var source) && source.Task == expected)
        {
            _waits.TryRemove(new((cache, id), source));
        }
    }

    protected override async Task RunAsync(CancellationToken cancel)
    {
        if (!redis.IsConfigured)
        {
            return;
        }

        var connection = redis.Cache.Multiplexer;
        connection.ConnectionFailed += (_, _) => Interrupt("a connection failed");
        connection.ConnectionRestored += (_, _) => Interrupt("a connection was restored");
        await await Task.WhenAny(ReceiveAsync(connection.GetSubscriber(), cancel), SendAsync(connection, cancel));
    }

    /// <remarks>
    /// A subscription can be registered while Redis is away, without an error; the library restores it with each new connection. If the
    /// library fails to do so, the subscription is replaced, and its queue ends.
    /// </remarks>
    private async Task ReceiveAsync(ISubscriber subscriber, CancellationToken cancel)
    {
        while (true)
        {
            var messages = _subscription = await subscriber.SubscribeAsync(RedisChannel.Literal(Channel), CommandFlags.FireAndForget);
            await foreach (var message in messages.WithCancellation(cancel))
            {
                try
                {
                    Receive(message.Message.ToString());
                }
                catch (Exception error)
                {
                    Log.HandlerFailed(log, error);
                    Interrupt("a message was not handled");
                }
            }
        }
    }

    private async Task SendAsync(IConnectionMultiplexer connection, CancellationToken cancel)
    {
        var lookup = Task.CompletedTask;
        using var timer = new PeriodicTimer(HeartbeatInterval);
        for (var tick = 0; ; tick++)
        {
            if (lookup.IsCompleted && (!IsTrusted || tick % TicksPerLookup == 0))
            {
                lookup = FindMastersAsync(connection);
            }

            // The heartbeats do not wait for each other: a frozen master delays only its own.
            foreach (var (master, heartbeat) in Heartbeats())
            {
                _ = SendAsync(master, heartbeat);
            }

            if (Volatile.Read(ref _unansweredSince) is var since and > 0
                && Environment.TickCount64 - since > ResubscribeAfter
                && _subscription is { } subscription)
            {
                Volatile.Write(ref _unansweredSince, 0);
                Interrupt("no heartbeat came back");
                await subscription.UnsubscribeAsync(CommandFlags.FireAndForget);
            }

            await timer.WaitForNextTickAsync(cancel);
        }
    }

    private List<(Master Master, string Text)> Heartbeats()
    {
        lock (_gate)
        {
            var prefix = string.Create(CultureInfo.InvariantCulture, $"{_epoch}/{Environment.TickCount64}");
            return [.. _masters.Select(master =>
                (master.Value, Message(BackplaneEvent.Heartbeat, prefix, master.Key, $"{++master.Value.Sent}")))];
        }
    }

    private async Task SendAsync(Master master, string heartbeat)
    {
        try
        {
            await master.Server.ExecuteAsync("EVAL", Heartbeat, "1", master.Key, Channel, heartbeat);
            Interlocked.CompareExchange(ref _unansweredSince, Environment.TickCount64, 0);
            _refusal = null;
        }
        catch (RedisServerException refusal)
        {
            circuit.Open();
            if (Interlocked.Exchange(ref _refusal, refusal.Message) != refusal.Message)
            {
                Log.Refused(log, refusal.Message);
            }
        }
        catch (Exception error) when (RedisConnections.IsOutage(error))
        {
            Log.NotSent(log, error.GetType().Name);
        }
    }

    /// <summary>Finds the masters that scripts run on: on a cluster, the masters that have slots; else the primary.</summary>
    private async Task FindMastersAsync(IConnectionMultiplexer connection)
    {
        try
        {
            Master[] masters;
            var servers = connection.GetServers();
            if (servers.FirstOrDefault(server => server.IsConnected && server.ServerType is ServerType.Cluster) is { } member)
            {
                var nodes = (await member.ClusterNodesAsync())?.Nodes.Where(node => !node.IsReplica && node.Slots.Count > 0).ToList() ?? [];
                // The library leaves out failed nodes. Until another node has the slots of a failed one, the known masters stay, so trust
                // ends.
                if (nodes.Sum(node => node.Slots.Sum(range => range.To - range.From + 1)) < ClusterSlots)
                {
                    return;
                }

                masters = [.. nodes.Select(node => new Master(connection.GetServer(node.EndPoint!), KeyIn(connection, node.Slots)))];
            }
            else
            {
                masters = [new Master(connection.GetServer(new RedisKey(Channel), flags: CommandFlags.DemandMaster), HeartbeatKey)];
            }

            lock (_gate)
            {
                var found = masters.ToDictionary(master => master.Server.EndPoint.ToString()!);
                if (found.Count != _masters.Count || !found.Keys.All(_masters.ContainsKey))
                {
                    _masters = found;
                    Interrupt("the masters have changed");
                }
            }
        }
        catch (Exception error) when (RedisConnections.IsOutage(error) || error is InvalidOperationException or ArgumentException)
        {
            Log.NotSent(log, error.GetType().Name);
        }
    }

    /// <summary>A key that a master of a cluster has.</summary>
    private RedisKey KeyIn(IConnectionMultiplexer connection, IList<SlotRange> slots) => Enumerable
        .Range(0, RedisConnections.MaxTriesForSlot)
        .Select(number => (RedisKey)$"{HeartbeatKey}:{{{number}}}")
        .First(key => connection.HashSlot(key) is var slot && slots.Any(range => range.From <= slot && slot <= range.To));

    private void Receive(string text)
    {
        if (text.Split(' ', 5) is not [var sender, var what, var cache, var number, var id]
            || number.Split('.') is not [var first, .. var rest]
            || !long.TryParse(first, CultureInfo.InvariantCulture, out var value)
            || !long.TryParse(rest is [var second] ? second : "0", CultureInfo.InvariantCulture, out var fence)
            || !Enum.TryParse<BackplaneEvent>(what, out var kind))
        {
            Log.Unreadable(log);
        }
        else if (kind is BackplaneEvent.Filled or BackplaneEvent.Failed)
        {
            if (_waits.TryRemove((cache, id), out var expected))
            {
                expected.TrySetResult(kind is BackplaneEvent.Filled);
            }
        }
        else if (kind is BackplaneEvent.Heartbeat)
        {
            if (sender == _sender && cache.Split('/') is [var epoch, var sentAt])
            {
                ReceiveHeartbeat(
                    id, value, long.Parse(epoch, CultureInfo.InvariantCulture), long.Parse(sentAt, CultureInfo.InvariantCulture));
            }
        }
        else if (sender != _sender || kind is BackplaneEvent.Cleared)
        {
            // Also its own message: the reply with the new generation may have missed its deadline.
            Received?.Invoke(new(kind, cache, id, value, fence));
        }
    }

    private void ReceiveHeartbeat(string endpoint, long number, long epoch, long sentAt)
    {
        Volatile.Write(ref _unansweredSince, 0);
        lock (_gate)
        {
            if (epoch != _epoch || !_masters.TryGetValue(endpoint, out var master) || number <= master.Received)
            {
                return;
            }

            if (master.Received > 0 && number > master.Received + 1)
            {
                Interrupt("a heartbeat is missing");
                return;
            }

            (master.Received, master.SentAt) = (number, sentAt);
            var until = _masters.Values.Min(each => each.SentAt) + TrustedFor;
            if (until <= Environment.TickCount64)
            {
                return;
            }

            if (_isInterrupted)
            {
                Interrupted?.Invoke();
                _isInterrupted = false;
                Log.Trusted(log);
            }

            Volatile.Write(ref _trustedUntil, until);
        }
    }

    private void Interrupt(string reason)
    {
        lock (_gate)
        {
            Volatile.Write(ref _trustedUntil, long.MinValue);
            _isInterrupted = true;
            _epoch++;
            foreach (var master in _masters.Values)
            {
                (master.Received, master.SentAt) = (0, long.MinValue / 2);
            }

            Log.Interrupted(log, reason);
        }
    }

    private sealed class Master(IServer server, RedisKey key)
    {
        public IServer Server => server;

        /// <summary>A key of this master, for its heartbeats.</summary>
        public RedisKey Key => key;

        /// <summary>The number of the last heartbeat that was sent.</summary>
        public long Sent { get; set; }

        /// <summary>The number of the last heartbeat that was received in this epoch; zero if none was.</summary>
        public long Received { get; set; }

        /// <summary>When the last heartbeat that was received in this epoch was sent.</summary>
        public long SentAt { get; set; } = long.MinValue / 2;
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Debug, "The backplane's heartbeat could not be sent: {Reason}")]
        public static partial void NotSent(ILogger log, string reason);

        [LoggerMessage(6, LogLevel.Warning, "Redis refuses the backplane's heartbeats, so Redis is not used: {Reason}")]
        public static partial void Refused(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Information, "The backplane was interrupted ({Reason}): entries in memory are no longer valid")]
        public static partial void Interrupted(ILogger log, string reason);

        [LoggerMessage(3, LogLevel.Warning, "The backplane received an invalid message")]
        public static partial void Unreadable(ILogger log);

        [LoggerMessage(4, LogLevel.Error, "The backplane could not handle a message")]
        public static partial void HandlerFailed(ILogger log, Exception error);

        [LoggerMessage(5, LogLevel.Information, "The backplane is trusted")]
        public static partial void Trusted(ILogger log);
    }
}
