using CachingApi.Caching.Tests.Simulation;
using CachingApi.Redis;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;

namespace CachingApi.Tests.Simulation;

/// <summary>
/// One run of the service's own state in Redis: several processes with clients, while connections break, processes crash, and Redis
/// restarts without losing data. Everything but the classes under test is that of the engine's simulations.
/// </summary>
internal abstract class ServiceSimulation : IDisposable
{
    /// <summary>The promise that every call ends.</summary>
    private const string Ends = "Every call ends";

    private const int MaxSteps = 30_000;
    private const int MaxFaults = 3;

    /// <summary>Longer than the longest outage of a connection, in seconds.</summary>
    private const double MaxOutage = 5;

    private static readonly int[] Moments = [1, 30, 120, 300, 700, 1200];

    private readonly List<Node> _nodes = [];
    private readonly List<(Node Node, Task Calls)> _clients = [];

    protected ServiceSimulation(Choices choices, bool isTraced)
    {
        World = new(choices) { IsTraced = isTraced, DelaysContinuations = choices.Next(4) == 3 };
        World.Servers["state"] = new(World, "state");
        Processes = 2 + choices.Next(2);
    }

    protected World World { get; }

    protected Choices Choices => World.Choices;

    protected int Processes { get; }

    /// <summary>The processes that have not crashed.</summary>
    protected IEnumerable<Node> Alive => _nodes.Where(node => !node.IsDead);

    /// <summary>Whether faults happen.</summary>
    protected virtual bool HasFaults => true;

    public Outcome Run()
    {
        BrokenPromiseException? broken = null;
        try
        {
            Choices.AreCalm = true;
            for (var number = 0; number < Processes; number++)
            {
                Start(((char)('A' + number)).ToString());
            }

            World.RunUntil(() => false, MaxSteps, 0.5);
            Choices.AreCalm = false;
            World.Trace.Clear();
            var clients = 2 + Choices.Next(3);
            for (var client = 0; client < clients; client++)
            {
                StartClient(_nodes[client % _nodes.Count]);
            }

            for (var faults = HasFaults ? Choices.Next(MaxFaults + 1) : 0; faults > 0; faults--)
            {
                var fault = Choices.Next(5);
                if (Choices.Next(2) == 1)
                {
                    World.AfterGates(1 + Choices.Next(200), () => Happen(fault));
                }
                else
                {
                    World.Open(null, "faults", () => "a fault:", () => Happen(fault), Moment());
                }
            }

            Finish("the calls of the clients");
            Choices.AreCalm = true;
            World.Release();
            World.RunUntil(() => World.Connections.TrueForAll(each => each.IsConnected || each.Node.IsDead), MaxSteps, MaxOutage);
            World.RunUntil(() => false, MaxSteps, 1.5);
            foreach (var node in Alive)
            {
                node.Run(() => _clients.Add((node, LookAsync(node))));
            }

            Finish("the last calls");
            CheckAtLast();
        }
        catch (BrokenPromiseException error)
        {
            broken = error;
            World.Note(null, error.Message);
        }

        return new(broken?.Promise, broken?.Message, Choices.Taken, World.Digest, World.Trace);
    }

    public void Dispose()
    {
        foreach (var node in _nodes)
        {
            node.IsDead = true;
        }

        GC.SuppressFinalize(this);
    }

    /// <summary>Makes the service's objects of a process, which has just started.</summary>
    protected abstract void StartProcess(Node node);

    /// <summary>A client of a process calls it.</summary>
    protected abstract Task CallAsync(Node node);

    /// <summary>All faults have ended long ago.</summary>
    protected virtual Task LookAsync(Node node) => Task.CompletedTask;

    /// <summary>Checks the whole history.</summary>
    protected virtual void CheckAtLast()
    {
        // Most promises are checked at each answer.
    }

    protected static RedisConnections Connect() => new(
        Options.Create(new RedisOptions { Cache = "state:6379", KeyPrefix = "shop" }), NullLogger<RedisConnections>.Instance);

    /// <summary>A pause of a client.</summary>
    protected Task PauseAsync(Node node, params int[] milliseconds) =>
        World.PassAsync($"clients of {node.Name}", TimeSpan.FromMilliseconds(milliseconds[Choices.Next(milliseconds.Length)]));

    private TimeSpan Moment() => TimeSpan.FromMilliseconds(Moments[Choices.Next(Moments.Length)]);

    private void Start(string name)
    {
        var node = new Node(World, name, TimeSpan.Zero);
        _nodes.Add(node);
        node.Run(() => StartProcess(node));
    }

    private void StartClient(Node node) => node.Run(() => _clients.Add((node, CallAsync(node))));

    private void Finish(string what)
    {
        var ended = World.RunUntil(
            () => _clients.TrueForAll(client => client.Calls.IsCompleted || client.Node.IsDead)
                || _clients.Exists(client => client.Calls.IsFaulted),
            MaxSteps,
            60);
        foreach (var (_, calls) in _clients.Where(client => client.Calls.IsFaulted))
        {
            calls.GetAwaiter().GetResult();
        }

        if (!ended)
        {
            throw new BrokenPromiseException(Ends, $"{what} did not end");
        }
    }

    private void Happen(int fault)
    {
        if (Alive.ElementAtOrDefault(Choices.Next(Alive.Count())) is not { } node)
        {
            return;
        }

        var connection = World.Connections.First(each => each.Node == node);
        switch (fault)
        {
            case 0:
                connection.BreakSubscription();
                break;
            case 1:
                connection.LoseMessages();
                break;
            case 2:
                connection.Break("the network fails");
                break;
            case 3:
                World.Servers["state"].FailOver(0);
                break;
            default:
                World.Note(node, "is killed");
                node.IsDead = true;
                World.Open(null, "faults", () => $"{node.Name}' starts in place of {node.Name}", () => Replace(node), Moment());
                break;
        }
    }

    private void Replace(Node node)
    {
        Start($"{node.Name}'");
        StartClient(_nodes[^1]);
    }
}
