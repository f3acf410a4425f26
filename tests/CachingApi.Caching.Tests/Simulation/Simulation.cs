using System.Text.Json;
using CachingApi.Redis;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>One run of a scenario: processes start, clients call the cache while faults happen, and the world comes to rest.</summary>
internal sealed class Simulation : IDisposable
{
    /// <summary>How long nothing happens, before all tiers must agree: longer than the second in which a lost message is noticed.</summary>
    private const double QuietSeconds = 1.2;

    /// <summary>Longer than the longest outage of a connection, in seconds.</summary>
    private const double MaxOutage = 5;

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
        _promises = new(_world) { HasDeferredWrites = scenario.WriteBehind };
        var shelf = new Shelf();
        _rows = new(_world, shelf, _promises);
        _follower = new(_rows);
        _world.Servers["cache"] = new(_world, "cache");
        _world.Servers["cache"].Published = (message, key) => _promises.Published(message, IsInCurrentGeneration(key));
        _world.Servers["state"] = new(_world, "state");
        if (!scenario.StartsEmpty)
        {
            foreach (var key in scenario.Keys)
            {
                _promises.Writes(key, $"first of {key}");
                _promises.Committed(key, shelf[key] = new($"first of {key}", 1));
            }
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
        (_rows.Fails, _rows.IsSlow) = (_plan.SourceFails, _scenario.LoadsAreSlow);
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
        (_rows.Fails, _rows.IsSlow) = (false, false);
        _world.Release();
        if (_scenario.Faults.Contains(Fault.StateBreaks))
        {
            _world.RunUntil(AreConnected, Promises.MaxSteps, MaxOutage);
        }

        _world.RunUntil(() => false, Promises.MaxSteps, QuietSeconds);
        if (!IsDrained())
        {
            _world.RunUntil(IsDrained, Promises.MaxSteps, _scenario.Rest);
            _world.RunUntil(() => false, Promises.MaxSteps, QuietSeconds);
        }

        Finish(() => Alive.All(process => process.IsReady), "the recovery");
        foreach (var key in _scenario.Keys)
        {
            _promises.AtLast(key, _rows[key], DeadLetters());
        }

        if (_scenario.EndsWithEvictions)
        {
            var process = Alive.First();
            process.Node.Run(() => _clients.Add((process.Node, EvictAllAsync(process))));
            Finish(HaveEnded, "the last evictions");
            _world.RunUntil(() => false, Promises.MaxSteps, QuietSeconds);
        }

        Look();

        // A process that knows nothing finds what Redis has.
        StartProcess("Z");
        Finish(() => Alive.All(process => process.IsReady), "the start of another process");
        Look();
    }

    private void Look()
    {
        foreach (var process in Alive)
        {
            process.Node.Run(() => _clients.Add((process.Node, LookAsync(process))));
        }

        Finish(HaveEnded, "the last reads");
    }

    private async Task EvictAllAsync(CacheProcess process)
    {
        foreach (var key in _scenario.Keys)
        {
            await process.Items.EvictAsync(key, CancellationToken.None);
        }
    }

    private bool AreConnected() => _world.Connections.TrueForAll(each => each.IsConnected || each.Node.IsDead);

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
        && _scenario.Keys.Any(id => key == $"shop:items:g{RedisModel.Text(generation)}:{id}");

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
        var (cache, node, key) = (process.Items, process.Node, _plan.Key());
        switch (operation)
        {
            case Operation.Read:
                var floor = _promises.Begin(node, key);
                var read = await cache.GetAsync(key, CancellationToken.None);
                _world.Note(node, $"the read returns {read.Value?.ToString() ?? "\"not found\""} ({read.Outcome})");
                _promises.End(node, key, floor, read.Value);
                break;
            case Operation.ReadPage:
                var pageFloor = _promises.Begin(node, Promises.Page);
                var page = await process.Pages.GetAsync(Promises.OnPage, CancellationToken.None);
                _world.Note(node, $"the read returns {page.Value} ({page.Outcome})");
                _promises.End(node, Promises.Page, pageFloor, page.Value?.Item);
                break;
            case Operation.WriteThrough or Operation.Invalidate or Operation.WriteBehind:
                var change = new Rename(NewName(key));
                _rows.Refuse(change.Name, _plan.RefusesWrites && operation is Operation.WriteBehind && _world.Choices.OneIn(2));
                var written = await (operation is Operation.WriteBehind || _scenario.WriteBehind
                    ? cache.WriteAsync(
                        key,
                        change,
                        versions: null,
                        operation is Operation.WriteBehind ? WriteStrategy.WriteBehind : WriteStrategy.WriteThrough,
                        CancellationToken.None)
                    : cache.WriteAsync(
                        key,
                        operation is Operation.Invalidate ? WriteStrategy.Invalidate : WriteStrategy.WriteThrough,
                        (fence, stop) => _rows.CommitAsync(key, change, versions: null, fence, stop),
                        CancellationToken.None));
                if (written.Value is { } item)
                {
                    Acknowledge(node, key, item.Version, item.Name);
                }

                break;
            case Operation.Create:
                var name = NewName(key);
                if (await _rows.CreateAsync(key, name) is { } created)
                {
                    await cache.InvalidateAsync(key, created, CancellationToken.None);
                    Acknowledge(node, key, created.Version, name);
                }

                break;
            case Operation.Delete:
                if ((await cache.DeleteAsync(key, (_, _) => _rows.DeleteAsync(key), CancellationToken.None)).Value is not null)
                {
                    Acknowledge(node, key, Promises.Deleted, name: null);
                }

                break;
            case Operation.Clear:
                var cleared = _scenario.Keys.Select(each => (Key: each, Version: _promises.VersionOf(each))).ToArray();
                await cache.ClearAsync(CancellationToken.None);
                Array.ForEach(cleared, each => _promises.Evicted(node, each.Key, each.Version));
                break;
            case Operation.ForeignWrite:
                await _rows.CommitAsync(key, new(NewName(key)), versions: null, default, CancellationToken.None);
                break;
            case Operation.ForeignDelete:
                await _rows.DeleteAsync(key);
                break;
            case Operation.Evict:
                var evicted = _promises.VersionOf(key);
                await cache.EvictAsync(key, CancellationToken.None);
                _promises.Evicted(node, key, evicted);
                break;
        }
    }

    private string NewName(string key)
    {
        var name = $"name {++_names}";
        _promises.Writes(key, name);
        return name;
    }

    private void Acknowledge(Node node, string key, long version, string? name)
    {
        _world.Note(node, name is null ? "the deletion is acknowledged" : $"the write of \"{name}\" is acknowledged, version {version}");
        _promises.Acknowledged(node, key, version, name);
        if (key == Promises.OnPage)
        {
            _promises.Acknowledged(node, Promises.Page, version, name);
        }
    }

    private void Happen(Fault fault)
    {
        var cache = _world.Servers["cache"];
        if (Alive.ElementAtOrDefault(_world.Choices.Next(Alive.Count())) is not { } process)
        {
            return;
        }

        var server = fault is Fault.StateBreaks ? "state" : "cache";
        var connection = _world.Connections.First(each => each.Node == process.Node && each.Redis.Name == server);
        switch (fault)
        {
            case Fault.SubscriptionBreaks:
                connection.BreakSubscription();
                break;
            case Fault.MessagesAreLost:
                connection.LoseMessages();
                break;
            case Fault.NetworkBreaks or Fault.StateBreaks:
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
        foreach (var key in _scenario.Keys)
        {
            var read = await process.Items.GetAsync(key, CancellationToken.None);
            _world.Note(process.Node, $"the last read returns {read.Value?.ToString() ?? "\"not found\""} ({read.Outcome})");
            _promises.AtLast(process.Node, key, read.Value);
        }

        if (process.HasPages)
        {
            var page = await process.Pages.GetAsync(Promises.OnPage, CancellationToken.None);
            _promises.AtLast(process.Node, Promises.Page, page.Value?.Item);
        }
    }
}
