namespace CachingApi.Caching.Tests.Simulation;

/// <summary>The generator SplitMix64, which gives the same numbers in every version of .NET.</summary>
internal static class SplitMix
{
    public static ulong Next(ref ulong state)
    {
        var mixed = state += 0x9E3779B97F4A7C15;
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
        return mixed ^ (mixed >> 31);
    }
}

/// <summary>
/// All decisions of a run. They come from a seed, or from the recorded decisions of another run; 0 is always the calmest decision, and a
/// recording that has ended goes on with 0. So a run becomes simpler if decisions are left out or become 0.
/// </summary>
/// <remarks>
/// Two ways to pick the next gate, of which the seed takes one: a random walk, in which each open gate is as likely; and PCT (Burckhardt
/// et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010), in which each actor has a random
/// priority, the highest one goes on, and at a few random steps it falls behind all others.
/// <para>In both, some events are held back for a time, which may be longer than any time-out: each with a probability, or a few of the
/// first ones.</para>
/// </remarks>
internal sealed class Choices
{
    /// <summary>If only a few events are held back, they are among the first ones: later ones are mostly heartbeats.</summary>
    private const int EarlyHolds = 50;

    private static readonly TimeSpan[] Holds =
        [.. new[] { 5, 20, 60, 150, 400, 1100, 2500, 6000 }.Select(each => TimeSpan.FromMilliseconds(each))];

    private readonly IReadOnlyList<int>? _recorded;
    private readonly List<int> _taken = [];
    private readonly Dictionary<string, ulong> _priorities = [];
    private readonly HashSet<int> _changes = [];
    private readonly bool _isPct;
    private readonly int _holdEvery;
    private ulong _state;
    private readonly Dictionary<int, int> _fewHolds = [];
    private int _picks;
    private int _holds;

    public Choices(ulong seed)
    {
        _state = seed;
        _isPct = Draw(2) == 1;
        _holdEvery = Draw(5) switch { 1 => 80, 2 => 25, 3 => 8, _ => 0 };
        for (var holds = _holdEvery == 0 ? Draw(4) : 0; holds > 0; holds--)
        {
            _fewHolds[Draw(EarlyHolds)] = 1 + Draw(Holds.Length);
        }

        var within = Draw(3) switch { 0 => 40, 1 => 120, _ => 400 };
        for (var changes = Draw(4); _isPct && changes > 0; changes--)
        {
            _changes.Add(Draw(within));
        }
    }

    public Choices(IReadOnlyList<int> recorded) => _recorded = recorded;

    /// <summary>The decisions so far.</summary>
    public IReadOnlyList<int> Taken => _taken;

    /// <summary>The longest hold of an event.</summary>
    public TimeSpan MaxHold { get; set; } = TimeSpan.MaxValue;

    /// <summary>While it is set, every decision is the calmest, and none is recorded.</summary>
    public bool AreCalm { get; set; }

    /// <summary>A number from 0 to <paramref name="count"/> - 1.</summary>
    public int Next(int count) => count <= 1 || AreCalm ? 0 : Record(count, Draw);

    /// <summary>True once in so many times.</summary>
    public bool OneIn(int count) => Next(count) == count - 1;

    /// <summary>For how long the next event of a connection is held back.</summary>
    public TimeSpan Hold()
    {
        if (AreCalm)
        {
            return TimeSpan.Zero;
        }

        var number = _holds++;
        var hold = Record(Holds.Length + 1, count => _holdEvery > 0
            ? Draw(_holdEvery) == 0 ? 1 + Draw(count - 1) : 0
            : _fewHolds.GetValueOrDefault(number));
        return hold == 0 ? TimeSpan.Zero : Holds[hold - 1] < MaxHold ? Holds[hold - 1] : MaxHold;
    }

    /// <summary>The place of the gate that is passed next.</summary>
    public int Pick(IReadOnlyList<Gate> open)
    {
        if (open.Count == 1 || AreCalm)
        {
            return 0;
        }

        return Record(open.Count, count => _isPct ? ByPriority(open) : Draw(count));
    }

    private int ByPriority(IReadOnlyList<Gate> open)
    {
        var highest = 0;
        for (var at = 0; at < open.Count; at++)
        {
            highest = Priority(open[at].Actor) > Priority(open[highest].Actor) ? at : highest;
        }

        if (_changes.Contains(_picks++))
        {
            _priorities[open[highest].Actor] = (ulong)(1000 - _picks);
        }

        return highest;
    }

    private ulong Priority(string actor)
    {
        if (!_priorities.TryGetValue(actor, out var priority))
        {
            _priorities[actor] = priority = SplitMix.Next(ref _state) | (1UL << 62);
        }

        return priority;
    }

    private int Record(int count, Func<int, int> draw)
    {
        var choice = _recorded is null ? draw(count)
            : _taken.Count < _recorded.Count ? Math.Min(_recorded[_taken.Count], count - 1)
            : 0;
        _taken.Add(choice);
        return choice;
    }

    private int Draw(int count) => (int)(SplitMix.Next(ref _state) % (ulong)count);
}
