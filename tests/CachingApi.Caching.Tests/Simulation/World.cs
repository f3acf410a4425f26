using System.Globalization;
using System.Net;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>An event that the scheduler may let happen now.</summary>
internal sealed class Gate(Node? node, string actor, Func<string> label, Action pass)
{
    /// <summary>The process that it happens in; <c>null</c> for the rest of the world.</summary>
    public Node? Node => node;

    /// <summary>The events of one actor have one priority: see <see cref="Choices"/>.</summary>
    public string Actor => actor;

    public string Label => label();

    public bool IsCancelled { get; private set; }

    public void Cancel() => IsCancelled = true;

    public void Pass() => pass();
}

/// <summary>
/// One run: several processes of the library, their servers and their clock on one thread. Where the real world may interleave, there is a
/// <see cref="Gate"/>, and the <see cref="Choices"/> pick the one that happens next.
/// </summary>
/// <remarks>
/// A gate is open when its time has come. While gates are open, one of them is picked; if none is, the clock moves to the time of the next
/// one. Between two gates, every continuation that can run does so, in order.
/// </remarks>
internal sealed class World(Choices choices)
{
    private const long StepMicros = 10;

    private readonly List<Gate> _open = [];
    private readonly PriorityQueue<Gate, (long Due, long Number)> _later = new();
    private readonly PriorityQueue<Action, int> _atStep = new();
    private readonly HashSet<Gate> _held = [];
    private readonly Queue<(Node Node, SendOrPostCallback Callback, object? State)> _ready = new();
    private long _gates;
    private long _guids;

    public Choices Choices => choices;

    /// <summary>The time in microseconds since the Unix epoch.</summary>
    public long Micros { get; private set; } = 1_800_000_000_000_000;

    /// <summary>The time since the run began, in seconds.</summary>
    public double Seconds => (Micros - 1_800_000_000_000_000) / 1_000_000.0;

    /// <summary>How many gates have been passed.</summary>
    public int Steps { get; private set; }

    /// <summary>A digest of all that has happened, in order.</summary>
    public ulong Digest { get; private set; } = 14695981039346656037;

    /// <summary>All that has happened, as text, if the run is traced.</summary>
    public List<string> Trace { get; } = [];

    public bool IsTraced { get; init; }

    public Random Random { get; } = new SimulatedRandom((ulong)choices.Next(1024));

    /// <summary>The current state of the interleaving: a continuation may wait while another gate is passed.</summary>
    public bool DelaysContinuations { get; init; }

    /// <summary>The Redis servers by name.</summary>
    public Dictionary<string, RedisProcess> Servers { get; } = [];

    /// <summary>The connections of all processes, in the order in which they were made.</summary>
    public List<SimulatedMultiplexer> Connections { get; } = [];

    public RedisProcess ServerOf(EndPoint address) => Servers[((DnsEndPoint)address).Host];

    public void Connected(SimulatedMultiplexer connection) => Connections.Add(connection);

    public Guid NewGuid() => new(0x51, 0, 0, [.. BitConverter.GetBytes(++_guids).Reverse()]);

    /// <summary>A gate that is open from now on, or after a hold.</summary>
    public Gate Open(Node? node, string actor, Func<string> label, Action pass, TimeSpan hold = default)
    {
        var gate = new Gate(node, actor, label, pass);
        if (hold > TimeSpan.Zero)
        {
            _later.Enqueue(gate, (Micros + (long)hold.TotalMicroseconds, ++_gates));
            _held.Add(gate);
        }
        else
        {
            _open.Add(gate);
        }

        return gate;
    }

    /// <summary>Opens all gates that are held back, and leaves out what would happen after further gates.</summary>
    public void Release()
    {
        _atStep.Clear();
        var timers = _later.UnorderedItems.Where(gate => !_held.Contains(gate.Element)).ToArray();
        _open.AddRange(_later.UnorderedItems.Where(gate => _held.Contains(gate.Element)).OrderBy(gate => gate.Priority)
            .Select(gate => gate.Element));
        _later.Clear();
        _later.EnqueueRange(timers);
        _held.Clear();
    }

    /// <summary>A gate that opens after a time.</summary>
    public Gate After(TimeSpan time, Node? node, string label, Action pass)
    {
        var gate = new Gate(node, node?.TimerActor ?? "time", () => label, pass);
        _later.Enqueue(gate, (Micros + Math.Max(1, (long)time.TotalMicroseconds), ++_gates));
        return gate;
    }

    /// <summary>Does something after a number of further gates.</summary>
    public void AfterGates(int gates, Action action) => _atStep.Enqueue(action, Steps + gates);

    /// <summary>Ends when the scheduler lets it happen.</summary>
    public Task PassAsync(string actor, TimeSpan hold)
    {
        var passed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Open(Node.Current, actor, () => "", passed.SetResult, hold);
        return passed.Task;
    }

    public void Ready(Node node, SendOrPostCallback callback, object? state) => _ready.Enqueue((node, callback, state));

    /// <summary>Lets events happen until a condition holds; returns whether it does.</summary>
    public bool RunUntil(Func<bool> isOver, int maxSteps, double maxSeconds)
    {
        var until = Micros + (long)(maxSeconds * 1_000_000);
        for (var end = Steps + maxSteps; Steps < end;)
        {
            if (_ready.Count > 0 && !(DelaysContinuations && _open.Count > 0 && choices.Next(16) == 15))
            {
                Continue();
                continue;
            }

            while (_atStep.TryPeek(out _, out var step) && step <= Steps)
            {
                _atStep.Dequeue()();
            }

            if (isOver())
            {
                return true;
            }

            if (!OpenDue() || Micros > until)
            {
                return false;
            }

            var index = choices.Pick(_open);
            var gate = _open[index];
            _open.RemoveAt(index);
            if (!gate.IsCancelled && gate.Node?.IsDead != true)
            {
                Pass(gate);
            }
        }

        return false;
    }

    /// <summary>Adds a line to the history.</summary>
    public void Note(Node? node, string text)
    {
        foreach (var letter in text)
        {
            Digest = unchecked((Digest ^ letter) * 1099511628211);
        }

        if (IsTraced)
        {
            Trace.Add(Line(node, text));
        }
    }

    private string Line(Node? node, string text) =>
        string.Create(CultureInfo.InvariantCulture, $"{Seconds:0.00000} s: {(node is null ? "" : $"{node.Name} ")}{text}");

    private void Pass(Gate gate)
    {
        Steps++;
        Micros += StepMicros;
        Digest = unchecked((Digest ^ (ulong)Micros) * 1099511628211);
        if (IsTraced && gate.Label is { Length: > 0 } label)
        {
            Trace.Add(Line(gate.Node, label));
        }

        if (gate.Node is { } node)
        {
            node.Run(gate.Pass);
        }
        else
        {
            gate.Pass();
        }
    }

    private void Continue()
    {
        var (node, callback, state) = _ready.Dequeue();
        if (!node.IsDead)
        {
            node.Run(() => callback(state));
        }
    }

    /// <summary>Opens the gates whose time has come; if none is open then, moves the clock. Returns whether one is open.</summary>
    private bool OpenDue()
    {
        while (_later.TryPeek(out var gate, out var at) && (at.Due <= Micros || _open.Count == 0))
        {
            _later.Dequeue();
            _held.Remove(gate);
            if (!gate.IsCancelled && gate.Node?.IsDead != true)
            {
                Micros = Math.Max(Micros, at.Due);
                _open.Add(gate);
            }
        }

        return _open.Count > 0;
    }

    private sealed class SimulatedRandom(ulong seed) : Random
    {
        private ulong _state = seed;

        public override double NextDouble() => Sample();

        public override int Next(int maxValue) => (int)(Sample() * maxValue);

        protected override double Sample() => (SplitMix.Next(ref _state) >> 11) * (1.0 / (1UL << 53));
    }
}

/// <summary>The events of one connection in one direction, which happen in order.</summary>
internal sealed class Stream(World world, Node? node, string actor)
{
    private readonly Queue<(Func<string> Label, Action Pass)> _events = new();
    private Gate? _head;

    public int Count => _events.Count;

    public void Add(Func<string> label, Action pass)
    {
        _events.Enqueue((label, pass));
        if (_head is null)
        {
            OpenNext();
        }
    }

    /// <summary>Drops the events that have not happened, but for the first <paramref name="keep"/>.</summary>
    public void Drop(int keep = 0)
    {
        var kept = _events.Take(keep).ToArray();
        _events.Clear();
        foreach (var each in kept)
        {
            _events.Enqueue(each);
        }

        if (kept.Length == 0)
        {
            _head?.Cancel();
            _head = null;
        }
    }

    private void OpenNext()
    {
        if (!_events.TryPeek(out var next))
        {
            _head = null;
            return;
        }

        _head = world.Open(
            node,
            actor,
            next.Label,
            () =>
            {
                _events.Dequeue();
                next.Pass();
                OpenNext();
            },
            world.Choices.Hold());
    }
}
