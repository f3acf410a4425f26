using System.Text.Json;
using CachingApi.Redis;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>One run of a scenario: processes start, clients call the cache while faults happen, and the world comes to rest.</summary>
internal sealed class Simulation : IDisposable
{
    private const string Key = "k";

    /// <summary>How long nothing happens, before all tiers must agree: longer than the second in which a lost message is noticed.</summary>
    private const double QuietSeconds = 1.2;

    private readonly Scenario _scenario;
    private readonly Plan _plan;
    private readonly World _world;
    private readonly Promises _promises;
    private readonly SimulatedShelf _rows;
    private readonly ChangeFollower _follower;
    private readonly List<CacheProcess> _processes = [];
    private readonly List<(Node Node, Task Calls)> _clients = [];
    private int _names;

    private Simulation(Scenario scenario, Choices choices, bool isTraced)
    {
        _scenario = scenario;
        _world = new(choices) { IsTraced = isTraced, DelaysContinuations = choices.Next(4) == 3 };
        _plan = new(scenario, choices);
        choices.MaxHold = scenario.MaxHold;
        _promises = new(_world);
        var shelf = new Shelf();
        _rows = new(_world, shelf, _promises);
        _follower = new(_rows);
        _world.Servers["cache"] = new(_world, "cache");
        _world.Servers["cache"].Published = (message, key) => _promises.Published(message, IsInCurrentGeneration(key));
        _world.Servers["state"] = new(_world, "state");
        if (!scenario.StartsEmpty)
        {
            _promises.Committed(Key, shelf[Key] = new("first", 1));
        }
    }

    private IEnumerable<CacheProcess> Alive => _processes.Where(process => !process.Node.IsDead);

    public static Outcome Run(Scenario scenario, Choices choices, bool isTraced = false)
    {
        using var run = new Simulation(scenario, choices, isTraced);
        return run.Run();
    }

    public void Dispose()
    {
        foreach (var process in _processes)
        {
            process.Dispose();
        }
    }

    private Outcome Run()
    {
        BrokenPromiseException? broken = null;
        try
        {
            Start();
            Act();
            Rest();
        }
        catch (BrokenPromiseException error)
        {
            broken = error;
            _world.Note(null, error.Message);
        }

        return new(broken?.Promise, broken?.Message, _world.Choices.Taken, _world.Digest, _world.Trace);
    }

    /// <summary>All processes start, without faults.</summary>
    private void Start()
    {
        _world.Choices.AreCalm = true;
        for (var number = 0; number < _plan.Processes; number++)
        {
            StartProcess(((char)('A' + number)).ToString());
        }

        Finish(() => _processes.TrueForAll(process => process.IsReady), "the start");
        foreach (var process in _processes.Take(_plan.Warm))
        {
            process.Node.Run(() => _clients.Add((process.Node, CallAsync(process, _scenario.Operations[0]))));
        }

        Finish(HaveEnded, "the first reads");
        _clients.Clear();
        _world.Choices.AreCalm = false;
        _world.Trace.Clear();
    }

    /// <summary>The clients call the cache, while faults happen.</summary>
    private void Act()
    {
        _rows.Fails = _plan.SourceFails;
        for (var client = 0; client < _plan.Clients; client++)
        {
            StartClient(_processes[client % _processes.Count], _plan.Calls());
        }

        foreach (var (fault, after, gates) in _plan.Faults)
        {
            if (gates > 0)
            {
                _world.AfterGates(gates, () => Happen(fault));
            }
            else
            {
                _world.Open(null, "faults", () => "a fault:", () => Happen(fault), after);
            }
        }

        Finish(HaveEnded, "the calls of the clients");
        if (_scenario is { Operations: [Operation.Read], Faults: [] })
        {
            Promises.ColdKey(_rows.Loads);
        }
    }

    /// <summary>Without further faults, all tiers must agree with the database after a while.</summary>
    private void Rest()
    {
        _world.Choices.AreCalm = true;
        _rows.Fails = false;
        _world.Release();
        _world.RunUntil(() => false, Promises.MaxSteps, QuietSeconds);
        if (!IsDrained())
        {
            _world.RunUntil(IsDrained, Promises.MaxSteps, _scenario.Rest);
            _world.RunUntil(() => false, Promises.MaxSteps, QuietSeconds);
        }

        Finish(() => Alive.All(process => process.IsReady), "the recovery");
        _promises.AtLast(Key, _rows[Key], DeadLetters());
        foreach (var process in Alive)
        {
            process.Node.Run(() => _clients.Add((process.Node, LookAsync(process))));
        }

        Finish(HaveEnded, "the last reads");
    }

    /// <summary>Whether no client calls any more, the queue is empty, and change data capture has sent all changes.</summary>
    private bool IsDrained() => HaveEnded()
        && (!_scenario.WriteBehind || Ask("state", "XLEN", "{shop:write-behind:items}:queue") is 0L)
        && (!_scenario.FollowsChanges || _follower.IsUpToDate);

    /// <summary>The names of the dead letters, as the state server has them.</summary>
    private string[] DeadLetters()
    {
        return
        [
            .. ((object?[])Ask("state", "XRANGE", "{shop:write-behind:items}:dead-letters", "-", "+")!)
                .Select(entry => ((object?[])((object?[])entry!)[1]!).Cast<byte[]>().ToArray())
                .Select(fields => fields[Array.FindIndex(fields, field => field.AsSpan().SequenceEqual("value"u8)) + 1])
                .Select(value => JsonSerializer.Deserialize(value, ItemJson.Default.Rename)!.Name),
        ];
    }

    private bool IsInCurrentGeneration(string key) => Ask("cache", "GET", "shop:items:generation") is byte[] generation
        && key == $"shop:items:g{RedisModel.Text(generation)}:{Key}";

    /// <summary>The reply of a server to a command that no process sends.</summary>
    private object? Ask(string server, params string[] command) =>
        _world.Servers[server].Model.Execute(Array.ConvertAll(command, RedisModel.Bytes), _world.Micros);

    private void StartProcess(string name)
    {
        var node = new Node(_world, name, TimeSpan.Zero) { RedisDeadline = _plan.RedisDeadline };
        node.Run(() =>
        {
            var process = new CacheProcess(node, _scenario, _rows);
            _processes.Add(process);
            _ = process.StartAsync();
            if (_scenario.FollowsChanges)
            {
                _ = _follower.FollowAsync(process.Items, process.Changes);
            }
        });
    }

    private void StartClient(CacheProcess process, int calls) =>
        process.Node.Run(() => _clients.Add((process.Node, CallAsync(process, calls))));

    private bool HaveEnded() => _clients.TrueForAll(client => client.Calls.IsCompleted || client.Node.IsDead);

    /// <summary>Lets events happen until a condition holds, or a client finds a broken promise.</summary>
    private void Finish(Func<bool> isOver, string what)
    {
        _promises.Finish(() => isOver() || _clients.Exists(client => client.Calls.IsFaulted), what);
        foreach (var (_, calls) in _clients.Where(client => client.Calls.IsFaulted))
        {
            calls.GetAwaiter().GetResult();
        }
    }

    private async Task CallAsync(CacheProcess process, int calls)
    {
        for (var left = calls; left > 0; left--)
        {
            await _world.PassAsync($"clients of {process.Node.Name}", _plan.Pause());
            var operation = _plan.Operation();
            _world.Note(process.Node, $"a client calls: {operation}");
            try
            {
                await CallAsync(process, operation);
            }
            catch (Exception error) when (error is UnavailableException or SimulatedOutageException or TimeoutException)
            {
                _world.Note(process.Node, $"the call fails: {error.Message}");
            }
        }
    }

    private async Task CallAsync(CacheProcess process, Operation operation)
    {
        var (cache, node) = (process.Items, process.Node);
        switch (operation)
        {
            case Operation.Read:
                var floor = _promises.Begin(node, Key);
                var read = await cache.GetAsync(Key, CancellationToken.None);
                _world.Note(node, $"the read returns {read.Value?.ToString() ?? "\"not found\""} ({read.Outcome})");
                _promises.End(node, Key, floor, read.Value);
                break;
            case Operation.ReadPage:
                var pageFloor = _promises.Begin(node, Promises.Page);
                var page = await process.Pages.GetAsync(Key, CancellationToken.None);
                _world.Note(node, $"the read returns {page.Value} ({page.Outcome})");
                _promises.End(node, Promises.Page, pageFloor, page.Value?.Item);
                break;
            case Operation.WriteThrough or Operation.Invalidate or Operation.WriteBehind:
                var change = new Rename($"name {++_names}");
                _rows.Refuse(change.Name, _plan.RefusesWrites && operation is Operation.WriteBehind && _world.Choices.OneIn(2));
                var written = await (operation is Operation.WriteBehind || _scenario.WriteBehind
                    ? cache.WriteAsync(
                        Key,
                        change,
                        versions: null,
                        operation is Operation.WriteBehind ? WriteStrategy.WriteBehind : WriteStrategy.WriteThrough,
                        CancellationToken.None)
                    : cache.WriteAsync(
                        Key,
                        operation is Operation.Invalidate ? WriteStrategy.Invalidate : WriteStrategy.WriteThrough,
                        (fence, stop) => _rows.CommitAsync(Key, change, versions: null, fence, stop),
                        CancellationToken.None));
                if (written.Value is { } item)
                {
                    Acknowledge(node, item.Version, item.Name);
                }

                break;
            case Operation.Create:
                var name = $"name {++_names}";
                if (await _rows.CreateAsync(Key, name) is { } created)
                {
                    await cache.InvalidateAsync(Key, created, CancellationToken.None);
                    Acknowledge(node, created.Version, name);
                }

                break;
            case Operation.Delete:
                if ((await cache.DeleteAsync(Key, (_, _) => _rows.DeleteAsync(Key), CancellationToken.None)).Value is not null)
                {
                    Acknowledge(node, Promises.Deleted, name: null);
                }

                break;
            case Operation.Clear:
                await cache.ClearAsync(CancellationToken.None);
                break;
            case Operation.ForeignWrite:
                await _rows.CommitAsync(Key, new($"name {++_names}"), versions: null, default, CancellationToken.None);
                break;
            case Operation.ForeignDelete:
                await _rows.DeleteAsync(Key);
                break;
            case Operation.Evict:
                await cache.EvictAsync(Key, CancellationToken.None);
                break;
        }
    }

    private void Acknowledge(Node node, long version, string? name)
    {
        _world.Note(node, name is null ? "the deletion is acknowledged" : $"the write of \"{name}\" is acknowledged, version {version}");
        _promises.Acknowledged(node, Key, version, name);
        _promises.Acknowledged(node, Promises.Page, version, name);
    }

    private void Happen(Fault fault)
    {
        var cache = _world.Servers["cache"];
        if (Alive.ElementAtOrDefault(_world.Choices.Next(Alive.Count())) is not { } process)
        {
            return;
        }

        var connection = _world.Connections.First(each => each.Node == process.Node);
        switch (fault)
        {
            case Fault.SubscriptionBreaks:
                connection.BreakSubscription();
                break;
            case Fault.MessagesAreLost:
                connection.LoseMessages();
                break;
            case Fault.NetworkBreaks:
                connection.Break("the network fails");
                break;
            case Fault.Flush:
                cache.Flush();
                _promises.RedisFailed();
                break;
            case Fault.FailOver:
                cache.FailOver(_world.Choices.Next(40));
                _promises.RedisFailed();
                break;
            case Fault.Eviction:
                cache.EvictEntries(DateTimeOffset.UnixEpoch.AddMicroseconds(_world.Micros) - TimeSpan.FromSeconds(1));
                break;
            case Fault.Crash:
                Crash(process);
                break;
        }
    }

    private void Crash(CacheProcess process)
    {
        if (!_scenario.FollowsChanges && process.HasQueuedInvalidations)
        {
            return; // they would be lost with it, and only change data capture would send them: see docs/guarantees.md
        }

        var (node, name) = (process.Node, $"{process.Node.Name}'");
        _world.Note(node, "is killed");
        node.IsDead = true;
        _world.Open(
            null,
            "faults",
            () => $"{name} starts in place of {node.Name}",
            () =>
            {
                StartProcess(name);
                StartClient(_processes[^1], _plan.Calls());
            },
            _plan.FaultTime());
    }

    private async Task LookAsync(CacheProcess process)
    {
        var read = await process.Items.GetAsync(Key, CancellationToken.None);
        _world.Note(process.Node, $"the last read returns {read.Value?.ToString() ?? "\"not found\""} ({read.Outcome})");
        _promises.AtLast(process.Node, Key, read.Value);
        if (process.HasPages)
        {
            _promises.AtLast(process.Node, Promises.Page, (await process.Pages.GetAsync(Key, CancellationToken.None)).Value?.Item);
        }
    }
}
