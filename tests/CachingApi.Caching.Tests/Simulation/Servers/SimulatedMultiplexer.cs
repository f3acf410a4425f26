using System.Net;
using StackExchange.Redis;

#pragma warning disable CA1822 // The library calls them as members of an object.

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// The client of Redis in one process: a connection for commands and one for messages. Commands reach the server in the order in which
/// they are sent, and so do replies and messages the process.
/// </summary>
[StandsFor("StackExchange.Redis.ConnectionMultiplexer")]
[StandsFor("StackExchange.Redis.IConnectionMultiplexer")]
internal sealed class SimulatedMultiplexer : IAsyncDisposable
{
    /// <summary>
    /// For how many milliseconds a connection is broken: for a moment, less than a time-out, or longer than most of them.
    /// </summary>
    private static readonly int[] Outages = [1, 200, 700, 3000];

    private readonly World _world;
    private readonly Node _node;
    private readonly RedisProcess _redis;
    private readonly Stream _requests;
    private readonly Stream _subscriptions;
    private readonly Stream _replies;
    private readonly Stream _messages;
    private readonly HashSet<Call> _calls = [];
    private readonly SimulatedServer _server;
    private SimulatedQueue? _subscription;
    private string? _channel;
    private bool _isSubscribed;
    private bool _losesMessages;

    private SimulatedMultiplexer(Node node, RedisProcess redis)
    {
        (_world, _node, _redis) = (node.World, node, redis);
        _requests = new(_world, null, $"{node.Name} to {redis.Name}");
        _subscriptions = new(_world, null, $"subscriptions of {node.Name}");
        _replies = new(_world, node, $"{redis.Name} to {node.Name}");
        _messages = new(_world, node, $"messages to {node.Name}");
        _server = new(this);
        redis.Connect(this);
    }

    public event EventHandler<ConnectionFailedEventArgs>? ConnectionFailed;

    public event EventHandler<ConnectionFailedEventArgs>? ConnectionRestored;

    public bool IsConnected { get; private set; } = true;

    public Node Node => _node;

    public RedisProcess Redis => _redis;

    public static SimulatedMultiplexer Connect(ConfigurationOptions configuration, TextWriter? log = null)
    {
        var made = new SimulatedMultiplexer(Node.Current, Node.Current.World.ServerOf(configuration.EndPoints[0]));
        Node.Current.World.Connected(made);
        return made;
    }

    public static Task<SimulatedMultiplexer> ConnectAsync(ConfigurationOptions configuration, TextWriter? log = null) =>
        Task.FromResult(Connect(configuration, log));

    public SimulatedDatabase GetDatabase(int db = -1, object? asyncState = null) => new(this);

    public SimulatedServer[] GetServers() => [_server];

    public SimulatedServer GetServer(RedisKey key, object? asyncState = null, CommandFlags flags = CommandFlags.None) => _server;

    public SimulatedServer GetServer(EndPoint endpoint, object? asyncState = null) => _server;

    public SimulatedSubscriber GetSubscriber(object? asyncState = null) => new(this);

    public int GetHashSlot(RedisKey key) => 0;

    public int HashSlot(RedisKey key) => 0;

    public Task<bool> ConfigureAsync(TextWriter? log = null) => Task.FromResult(true);

    public ValueTask DisposeAsync() => default;

    /// <summary>Sends a command; its reply ends the task.</summary>
    public async Task<object?> SendAsync(params byte[][] command)
    {
        if (!IsConnected)
        {
            throw Lost(ConnectionFailureType.UnableToConnect);
        }

        var call = new Call(command);
        _calls.Add(call);
        _requests.Add(() => $"{_redis.Name} executes {call.Text} of {_node.Name}", () => Arrive(call));
        var reply = await call.Reply.Task;
        return reply is RedisError error ? throw new RedisServerException(RedisErrorKind.None, CommandFlags.None, error.Message) : reply;
    }

    /// <summary>Both connections break. Of the commands that are on their way, the server may still receive some.</summary>
    public void Break(string reason)
    {
        if (!IsConnected || _node.IsDead)
        {
            return;
        }

        IsConnected = false;
        _isSubscribed = false;
        _world.Note(_node, $"loses its connections to {_redis.Name}: {reason}");
        _requests.Drop(_world.Choices.Next(_requests.Count + 1));
        _replies.Drop();
        DropSubscription();
        foreach (var call in _calls.ToArray())
        {
            Fail(call);
        }

        Raise(ConnectionType.Interactive, isRestored: false);
        Raise(ConnectionType.Subscription, isRestored: false);
        _world.After(Outage(), _node, $"connects to {_redis.Name} again", Restore);
    }

    /// <summary>Only the connection for messages breaks; the messages on their way are lost.</summary>
    public void BreakSubscription()
    {
        if (!_isSubscribed || _node.IsDead)
        {
            return;
        }

        _isSubscribed = false;
        _world.Note(_node, "loses its subscription");
        DropSubscription();
        Raise(ConnectionType.Subscription, isRestored: false);
        _world.After(Outage(), _node, "subscribes again", () =>
        {
            if (IsConnected)
            {
                Raise(ConnectionType.Subscription, isRestored: true);
                SubscribeAgain();
            }
        });
    }

    /// <summary>The sender of this process's heartbeats.</summary>
    public string? Sender { get; set; }

    /// <summary>
    /// A link between two nodes of a cluster fails: messages are lost, among them a heartbeat of this process, and none of its connections
    /// breaks.
    /// </summary>
    public void LoseMessages()
    {
        _world.Note(_node, "does not receive the next messages");
        _losesMessages = true;
    }

    /// <summary>The server sends a message to this process, if it is subscribed.</summary>
    public bool Publish(string channel, byte[] message)
    {
        if (!_isSubscribed || channel != _channel || _node.IsDead)
        {
            return false;
        }

        if (_losesMessages)
        {
            var text = RedisModel.Text(message);
            _world.Note(_node, $"does not receive {text}");
            _losesMessages = !text.StartsWith($"{Sender} 4 ", StringComparison.Ordinal)
                && !text.StartsWith("heartbeat ", StringComparison.Ordinal);
            return true;
        }

        var queue = _subscription!;
        _messages.Add(() => $"receives {RedisModel.Text(message)}", () => queue.Add(message));
        return true;
    }

    public void Subscribe(string channel, SimulatedQueue queue)
    {
        (_channel, _subscription) = (channel, queue);
        if (IsConnected)
        {
            _subscriptions.Add(() => $"{_redis.Name} subscribes {_node.Name}", () => _isSubscribed = _subscription == queue);
        }
    }

    public void Unsubscribe(SimulatedQueue queue)
    {
        (_channel, _isSubscribed) = (null, false);
        _messages.Drop();
        queue.End();
    }

    private TimeSpan Outage() => TimeSpan.FromMilliseconds(Outages[_world.Choices.Next(Outages.Length)]);

    private void Restore()
    {
        IsConnected = true;
        Raise(ConnectionType.Interactive, isRestored: true);
        Raise(ConnectionType.Subscription, isRestored: true);
        SubscribeAgain();
    }

    private void SubscribeAgain() =>
        _subscriptions.Add(() => $"{_redis.Name} subscribes {_node.Name} again", () => _isSubscribed = _channel is not null);

    /// <summary>The process may have received some messages that it has not handled yet; the others are lost.</summary>
    private void DropSubscription()
    {
        _subscriptions.Drop();
        _messages.Drop(_world.Choices.Next(_messages.Count + 1));
    }

    /// <remarks>The client of Redis raises it before it delivers a reply of the next connection.</remarks>
    private void Raise(ConnectionType type, bool isRestored)
    {
        var about = new ConnectionFailedEventArgs(
            this, _server.EndPoint, type, ConnectionFailureType.SocketClosed, new IOException("The connection is closed."), "");
        _replies.Add(
            () => $"learns that the connection for {(type is ConnectionType.Interactive ? "commands" : "messages")} "
                + (isRestored ? "is restored" : "has failed"),
            () => (isRestored ? ConnectionRestored : ConnectionFailed)?.Invoke(this, about));
    }

    private void Arrive(Call call)
    {
        var reply = _redis.Execute(call.Command);
        if (_calls.Contains(call))
        {
            _replies.Add(() => $"gets the reply to {call.Text}", () => End(call, reply));
        }
    }

    private void End(Call call, object? reply)
    {
        _calls.Remove(call);
        call.Reply.SetResult(reply);
    }

    private void Fail(Call call)
    {
        _calls.Remove(call);
        _node.Post(_ => call.Reply.SetException(Lost(ConnectionFailureType.SocketClosed)), null);
    }

    private static RedisConnectionException Lost(ConnectionFailureType type) =>
        new(type, CommandFlags.None, "No connection is active.", innerException: null, CommandStatus.Unknown);

    private sealed class Call(byte[][] command)
    {
        public byte[][] Command => command;

        public TaskCompletionSource<object?> Reply { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

        /// <summary>The command with its keys, and for a script the comment that it begins with.</summary>
        public string Text
        {
            get
            {
                var words = Array.ConvertAll(command, word => RedisModel.Text(word));
                if (words[0] is "EVALSHA")
                {
                    return $"the script on {words[3]}";
                }

                if (words[0] is not "EVAL")
                {
                    return string.Join(' ', words.Take(3).Select(Short));
                }

                var name = words[1].Split('\n')[0].TrimStart('-', ' ').Split('.', ':', ';', ',')[0];
                var keys = int.Parse(words[2], System.Globalization.CultureInfo.InvariantCulture);
                return $"the script \"{name}\" on {string.Join(' ', words.Skip(3).Take(Math.Min(keys, 1)))}";
            }
        }

        private static string Short(string word) => word.Length > 60 ? word[..60] : word;
    }
}
