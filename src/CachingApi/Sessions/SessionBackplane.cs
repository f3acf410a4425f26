using System.Globalization;
using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Sessions;

/// <summary>
/// Publishes the ends of users' sessions to the other processes, over pub/sub of the state server, and finds out whether this process has
/// received everything that they published.
/// </summary>
/// <remarks>
/// The script that ends sessions publishes it in the same step, so no process can die between the two. Pub/sub may lose that message. So
/// the process then counts the end, before it answers its client: one script gives the end a number later than every earlier number, keeps
/// it in one key, and publishes it together with the previous number. Four times per second, each process sends itself a heartbeat through
/// the same key: a script publishes the heartbeat's time of sending and the last number. A number that does not follow the last received
/// one is a gap, and the process clears its memory. Memory is trusted for 0.75 s from the time at which the last heartbeat was sent.
/// <para>So after a lost message, no process serves an ended session for more than 0.75 s:</para>
/// 1. process B receives a heartbeat that it sent at time t, with the number 7, which is the last that B received;
/// 2. process A ends a session, counts it as 8, and answers its client; B receives neither message;
/// 3. B's next heartbeat has the number 8: B clears its memory, and goes on from 8;
/// 4. or no heartbeat comes back: B stops serving from memory at t + 0.75 s, and step 2 was after t.
/// <para>In step 3, B cannot keep an old session: sessions that were read before have an earlier epoch, and a read that begins afterwards
/// finds the session ended. This needs no order between connections, no confirmation of the subscription, and no detection of
/// reconnections. A state server that lost its data has another number, because numbers are times in microseconds.</para>
/// <para>On a cluster, the key of the number is on one master, which publishes numbers and heartbeats; every node forwards them.
/// The script that ends a session runs on the master of its user. If the process dies before it has counted the end, no client has
/// received an answer, and the message of that script is the only one.</para>
/// </remarks>
internal sealed partial class SessionBackplane(RedisConnections redis, SessionMemory memory, ILogger<SessionBackplane> log)
    : BackgroundService
{
    /// <summary>For how long after its sending a heartbeat proves that every end was received.</summary>
    private static readonly TimeSpan TrustedFor = TimeSpan.FromMilliseconds(750);

    /// <summary>The subscription is replaced if no heartbeat arrives for this long although Redis accepts them.</summary>
    private const long ResubscribeAfter = 5000;

    private static readonly TimeSpan HeartbeatInterval = TimeSpan.FromMilliseconds(250);
    private static readonly string CountScript = Lua.Load(typeof(SessionBackplane), "session_count.lua");
    private static readonly string HeartbeatScript = Lua.Load(typeof(SessionBackplane), "session_heartbeat.lua");

    private readonly string _sender = $"{Guid.NewGuid():N}";
    private volatile ChannelMessageQueue? _subscription;
    private string? _last;
    private long _unansweredSince;

    /// <summary>The channel that the scripts publish in, and the key that holds the number of the last end.</summary>
    public string Channel { get; } = $"{redis.KeyPrefix}:session-ends";

    /// <summary>The message that sessions of a user have ended or changed.</summary>
    public static string Message(Guid userId) => $"ended {userId}";

    /// <summary>Counts an end of sessions, so that each process notices it even if it does not receive a message.</summary>
    /// <exception cref="UnavailableException">Redis is away: other processes may serve the session until they read it again.</exception>
    public Task CountAsync(Guid userId) => redis.OnStateAsync(
        state => state.ScriptEvaluateAsync(CountScript, [Channel], [Channel, $"{userId}"]), CancellationToken.None);

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        if (memory.IsOn)
        {
            var connection = redis.State.Multiplexer;
            connection.ConnectionRestored += (_, _) => memory.Clear();
            await await Task.WhenAny(ReceiveAsync(connection.GetSubscriber(), stoppingToken), SendAsync(stoppingToken));
        }
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
                Receive(message.Message.ToString());
            }
        }
    }

    private void Receive(string text)
    {
        switch (text.Split(' '))
        {
            case ["ended", var user] when Guid.TryParse(user, out var id):
                memory.Ended(id);
                break;
            case ["counted", var before, var number, var user] when Guid.TryParse(user, out var id):
                memory.Ended(id);
                Follow(before, number);
                break;
            case ["heartbeat", var sender, var sent, var number] when long.TryParse(sent, CultureInfo.InvariantCulture, out var at):
                if (sender == _sender)
                {
                    Volatile.Write(ref _unansweredSince, 0);
                    Follow(number, number);
                    memory.TrustUntil(new Moment(at).Plus(TrustedFor));
                }

                break;
            default:
                Log.Unreadable(log);
                break;
        }
    }

    private void Follow(string before, string number)
    {
        if (before != _last)
        {
            memory.Clear();
            if (_last is not null)
            {
                Log.Gap(log);
            }
        }

        _last = number;
    }

    private async Task SendAsync(CancellationToken cancel)
    {
        using var timer = new PeriodicTimer(HeartbeatInterval);
        do
        {
            // A heartbeat does not wait for the one before.
            _ = BeatAsync(cancel);
            if (Volatile.Read(ref _unansweredSince) is var since and > 0 && Moment.Now.Milliseconds - since > ResubscribeAfter
                && _subscription is { } subscription)
            {
                Volatile.Write(ref _unansweredSince, 0);
                await subscription.UnsubscribeAsync(CommandFlags.FireAndForget);
            }
        }
        while (await timer.WaitForNextTickAsync(cancel));
    }

    private async Task BeatAsync(CancellationToken cancel)
    {
        var heartbeat = string.Create(CultureInfo.InvariantCulture, $"heartbeat {_sender} {Moment.Now.Ticks}");
        try
        {
            await redis.OnStateAsync(state => state.ScriptEvaluateAsync(HeartbeatScript, [Channel], [Channel, heartbeat]), cancel);
            Interlocked.CompareExchange(ref _unansweredSince, Moment.Now.Milliseconds, 0);
        }
        catch (Exception error) when (error is UnavailableException or OperationCanceledException)
        {
            Log.NotSent(log, error.GetType().Name);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Debug, "The heartbeat of the sessions' channel could not be sent: {Reason}")]
        public static partial void NotSent(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Information, "Messages about ended sessions may have been lost: sessions in memory are read again")]
        public static partial void Gap(ILogger log);

        [LoggerMessage(3, LogLevel.Warning, "The sessions' channel received an invalid message")]
        public static partial void Unreadable(ILogger log);
    }
}
