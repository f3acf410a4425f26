using System.Collections.Concurrent;
using System.Globalization;
using CachingApi.Storage;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>What processes tell each other about a cache.</summary>
internal enum BackplaneEvent
{
    /// <summary>A thing has a new version: write-through or invalidation.</summary>
    Changed,

    /// <summary>A cache has a new generation.</summary>
    Dropped,

    /// <summary>A load that somebody waits for is over, and what it loaded is in Redis.</summary>
    Filled,

    /// <summary>A load that somebody waits for has failed.</summary>
    Failed,
}

/// <param name="Number">The version or the generation.</param>
/// <param name="Fence">With a version, the fencing token of its write.</param>
internal readonly record struct BackplaneMessage(BackplaneEvent Event, string Cache, string Id, long Number, long Fence)
{
    public Revision Revision => new(Number, Fence);
}

/// <summary>
/// Tells the other processes what has changed, over Redis pub/sub. The scripts publish in the same step as they write, so no
/// process can die between the two.
/// </summary>
/// <remarks>
/// Pub/sub delivers at most once, and a lost connection loses messages without a word. So each process sends itself a beat
/// over the same subscription. Where none comes back for a second, nothing that rests on messages is trusted; and all of it
/// is dropped when the beats are back, or the library says that it has connected anew.
/// </remarks>
internal sealed partial class Backplane(Redis redis, ILogger<Backplane> log) : BackgroundService
{
    private static readonly TimeSpan BeatInterval = TimeSpan.FromMilliseconds(250);
    private static readonly TimeSpan TrustedFor = TimeSpan.FromSeconds(1);

    private readonly string _sender = Guid.NewGuid().ToString("N");
    private readonly ConcurrentDictionary<(string Cache, string Id), TaskCompletionSource<bool>> _expected = new();
    // The machine's clock, not the injected one: connections come and go on their own. This one costs a few nanoseconds.
    private long _heardAt = long.MinValue / 2;
    private volatile bool _listening;

    /// <summary>Another process changed something.</summary>
    public event Action<BackplaneMessage>? Received;

    /// <summary>Messages may have been lost: what was learnt from them does not hold any more.</summary>
    public event Action? Interrupted;

    /// <summary>Where the scripts publish.</summary>
    public string Channel { get; } = $"{redis.KeyPrefix}:backplane";

    /// <summary>Whether every message has been heard that was sent until a second ago.</summary>
    public bool IsTrusted => _listening && Environment.TickCount64 - Volatile.Read(ref _heardAt) < TrustedFor.TotalMilliseconds;

    /// <summary>A revision as messages hold it.</summary>
    public static string Number(Revision revision) => string.Create(CultureInfo.InvariantCulture, $"{revision.Version}.{revision.Fence}");

    /// <summary>A message as the scripts publish it.</summary>
    public string Message(BackplaneEvent what, string cache, string id, string number) =>
        string.Create(CultureInfo.InvariantCulture, $"{_sender} {(int)what} {cache} {number} {id}");

    /// <summary>
    /// Ends when another process's load is over: <c>true</c> if it went well, <c>false</c> if it failed. To be asked for before
    /// the lease is, so that no message falls between; and to be ended by <see cref="ExpectNoMore"/>.
    /// </summary>
    public Task<bool> Expect(string cache, string id) =>
        _expected.GetOrAdd((cache, id), static _ => new(TaskCreationOptions.RunContinuationsAsynchronously)).Task;

    public void ExpectNoMore(string cache, string id, Task<bool> expected)
    {
        if (_expected.TryGetValue((cache, id), out var source) && source.Task == expected)
        {
            _expected.TryRemove(new((cache, id), source));
        }
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var connection = redis.Cache.Multiplexer;
        var subscriber = connection.GetSubscriber();
        var beats = RedisChannel.Literal($"{Channel}:{_sender}");
        connection.ConnectionRestored += (_, restored) =>
        {
            if (restored.ConnectionType is ConnectionType.Subscription)
            {
                Interrupt();
            }
        };

        using var timer = new PeriodicTimer(BeatInterval);
        do
        {
            try
            {
                if (!_listening)
                {
                    await subscriber.SubscribeAsync(RedisChannel.Literal(Channel), (_, message) => Receive(message.ToString())).WaitAsync(TrustedFor, stoppingToken);
                    await subscriber.SubscribeAsync(beats, (_, _) => Beat()).WaitAsync(TrustedFor, stoppingToken);
                    _listening = true;
                }

                await redis.Cache.PublishAsync(beats, "").WaitAsync(TrustedFor, stoppingToken);
            }
            catch (Exception error) when (Redis.IsOutage(error))
            {
                Log.NotSent(log, error.GetType().Name);
            }
        }
        while (await timer.WaitForNextTickAsync(stoppingToken));
    }

    private void Beat()
    {
        if (!IsTrusted)
        {
            Interrupt();
        }

        Volatile.Write(ref _heardAt, Environment.TickCount64);
    }

    private void Interrupt()
    {
        Log.Interrupted(log);
        Interrupted?.Invoke();
    }

    private void Receive(string text)
    {
        if (text.Split(' ', 5) is not [var sender, var what, var cache, var number, var id]
            || number.Split('.') is not [var first, .. var rest]
            || !long.TryParse(first, CultureInfo.InvariantCulture, out var value)
            || !long.TryParse(rest is [var second] ? second : "0", CultureInfo.InvariantCulture, out var fence)
            || !Enum.TryParse<BackplaneEvent>(what, out var kind))
        {
            Log.Unreadable(log);
            return;
        }

        if (kind is BackplaneEvent.Filled or BackplaneEvent.Failed)
        {
            if (_expected.TryRemove((cache, id), out var expected))
            {
                expected.TrySetResult(kind is BackplaneEvent.Filled);
            }
        }
        else if (sender != _sender)
        {
            Received?.Invoke(new(kind, cache, id, value, fence));
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Debug, "The backplane's beat could not be sent: {Reason}")]
        public static partial void NotSent(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Information, "The backplane listens: what was kept in memory before is dropped")]
        public static partial void Interrupted(ILogger log);

        [LoggerMessage(3, LogLevel.Warning, "The backplane received something that is not a message")]
        public static partial void Unreadable(ILogger log);
    }
}
