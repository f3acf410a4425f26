namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// The part of a scenario that one run uses. In most runs it is a random part: few clients with few calls of some kinds, and some kinds of
/// faults (Groce et al., "Swarm Testing", ISSTA 2012). If every run used all of them, some would hide the effects of others: a second write
/// repairs what a lost message of the first has left behind.
/// </summary>
internal sealed class Plan
{
    private const int MaxFaults = 3;
    private const int MaxGates = 80;

    private static readonly TimeSpan[] Pauses = Milliseconds(0, 0, 1, 30, 300, 1200);
    private static readonly TimeSpan[] ShortPauses = Milliseconds(0, 0, 0, 1);
    private static readonly TimeSpan[] FaultTimes = Milliseconds(1, 30, 300, 1200, 1800, 3000);

    private readonly Choices _choices;
    private readonly Operation[] _operations;
    private readonly IReadOnlyList<string> _keys;
    private readonly TimeSpan[] _pauses;
    private readonly int _maxCalls;

    public Plan(Scenario scenario, Choices choices)
    {
        (_choices, _keys) = (choices, scenario.Keys);
        var isWhole = choices.Next(4) == 3;
        _operations = isWhole ? scenario.Operations : Some(scenario.Operations);
        Processes = isWhole ? scenario.Processes : Math.Min(scenario.Processes, 2 + choices.Next(2));
        Clients = isWhole || !scenario.IsSwarm ? scenario.Clients : Math.Min(scenario.Clients, 2 + choices.Next(3));
        _maxCalls = isWhole ? scenario.MaxOperations : Math.Min(scenario.MaxOperations, 1 + choices.Next(4));
        _pauses = isWhole || choices.Next(2) == 1 ? Pauses : ShortPauses;
        Warm = scenario.IsSwarm ? Math.Min(Processes, choices.Next(4)) : 0;
        RedisDeadline = choices.Next(4) == 3 && scenario.IsSwarm ? TimeSpan.FromSeconds(2) : scenario.RedisDeadline;
        RefusesWrites = scenario.WriteBehind && choices.Next(3) == 2;
        SourceFails = scenario.SourceFails && (isWhole || choices.Next(2) == 1);
        var kinds = isWhole ? scenario.Faults : Some([.. scenario.Faults]);
        for (var faults = kinds.Count == 0 ? 0 : choices.Next(MaxFaults + 1); faults > 0; faults--)
        {
            var byGates = choices.Next(2) == 1;
            var fault = kinds[choices.Next(kinds.Count)];
            Faults.Add(byGates ? (fault, default, 1 + choices.Next(MaxGates)) : (fault, FaultTime(), 0));
        }
    }

    public int Processes { get; }

    public int Clients { get; }

    /// <summary>How many processes have read the key before the clients begin.</summary>
    public int Warm { get; }

    public TimeSpan RedisDeadline { get; }

    public bool SourceFails { get; }

    /// <summary>Whether the database refuses some queued writes.</summary>
    public bool RefusesWrites { get; }

    /// <summary>The faults, each after a time or, in the midst of the calls, after some gates.</summary>
    public List<(Fault Fault, TimeSpan After, int Gates)> Faults { get; } = [];

    /// <summary>How often a client calls.</summary>
    public int Calls() => 1 + _choices.Next(_maxCalls);

    /// <summary>The next call of a client.</summary>
    public Operation Operation() => _operations[_choices.Next(_operations.Length)];

    /// <summary>The entity of a client's next call.</summary>
    public string Key() => _keys[_choices.Next(_keys.Count)];

    /// <summary>How long a client pauses before its next call.</summary>
    public TimeSpan Pause() => _pauses[_choices.Next(_pauses.Length)];

    /// <summary>The time from one event to a fault that follows.</summary>
    public TimeSpan FaultTime() => FaultTimes[_choices.Next(FaultTimes.Length)];

    /// <summary>The first one, and each other one with probability one half.</summary>
    private T[] Some<T>(T[] all) where T : struct
    {
        var chosen = all.Distinct().ToDictionary(each => each, _ => _choices.Next(2) == 1);
        T[] some = [.. all.Where(each => chosen[each])];
        return some.Length > 0 ? some : [.. all.Take(1)];
    }

    private static TimeSpan[] Milliseconds(params int[] times) => [.. times.Select(each => TimeSpan.FromMilliseconds(each))];
}
