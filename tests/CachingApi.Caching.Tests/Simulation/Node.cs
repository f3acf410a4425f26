namespace CachingApi.Caching.Tests.Simulation;

/// <summary>A process. All of its code runs in its synchronization context, so that a crash is the end of that.</summary>
internal sealed class Node : SynchronizationContext
{
    private readonly TimeSpan _skew;

    /// <param name="skew">How far its clock is ahead.</param>
    public Node(World world, string name, TimeSpan skew)
    {
        (World, Name, _skew) = (world, name, skew);
        (Time, TimerActor) = (new Clock(this), $"{name} timers");
    }

    public static new Node Current => (Node)SynchronizationContext.Current!;

    public World World { get; }

    public string Name { get; }

    public TimeProvider Time { get; }

    public string TimerActor { get; }

    /// <summary>How long it waits for Redis.</summary>
    public TimeSpan RedisDeadline { get; init; } = TimeSpan.FromMilliseconds(50);

    /// <summary>Whether it has crashed: none of its code runs any more.</summary>
    public bool IsDead { get; set; }

    public override void Post(SendOrPostCallback d, object? state) => World.Ready(this, d, state);

    public override void Send(SendOrPostCallback d, object? state) => throw new NotSupportedException();

    public override SynchronizationContext CreateCopy() => this;

    /// <summary>Runs code in this process.</summary>
    public void Run(Action code)
    {
        var before = SynchronizationContext.Current;
        SetSynchronizationContext(this);
        try
        {
            code();
        }
        finally
        {
            SetSynchronizationContext(before);
        }
    }

    /// <summary>Asks code of this process.</summary>
    public T Ask<T>(Func<T> code)
    {
        var answer = default(T)!;
        Run(() => answer = code());
        return answer;
    }

    private sealed class Clock(Node node) : TimeProvider
    {
        public override long TimestampFrequency => 1_000_000;

        public override long GetTimestamp() => node.World.Micros;

        public override DateTimeOffset GetUtcNow() => DateTimeOffset.UnixEpoch.AddMicroseconds(node.World.Micros) + node._skew;

        public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period) =>
            new SimulatedTimer(callback, state, dueTime, period);
    }
}
