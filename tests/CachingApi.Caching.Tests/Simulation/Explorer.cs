using System.Diagnostics;
using System.Globalization;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>Runs a scenario by many seeds, until one breaks a promise.</summary>
internal sealed class Explorer
{
    private readonly string _scenario;
    private readonly ulong _first;
    private readonly int _count;
    private readonly TimeSpan _limit;
    private readonly long _began = Stopwatch.GetTimestamp();
    private readonly Lock _lock = new();
    private int _next;
    private int _runs;
    private ulong _digest;
    private (ulong Seed, Outcome Outcome)? _broken;

    private Explorer(string scenario, ulong first, int count, TimeSpan limit) =>
        (_scenario, _first, _count, _limit) = (scenario, first, count, limit);

    /// <summary>Called across the boundary of <see cref="SimulatedLibrary"/>, so only texts cross it.</summary>
    /// <param name="arguments">
    /// The name of the scenario, the first seed, the number of seeds, the seconds after which to end, the number of threads, and
    /// <c>True</c> if the steps are wanted.
    /// </param>
    /// <returns>
    /// The number of runs, the digest of their histories and, if one broke a promise, its seed, the promise, and the numbered steps of
    /// a simplified run that breaks the same promise.
    /// </returns>
    public static string[] Run(string[] arguments)
    {
        var explorer = new Explorer(
            arguments[0],
            ulong.Parse(arguments[1], CultureInfo.InvariantCulture),
            int.Parse(arguments[2], CultureInfo.InvariantCulture),
            TimeSpan.FromSeconds(double.Parse(arguments[3], CultureInfo.InvariantCulture)));
        explorer.Run(int.Parse(arguments[4], CultureInfo.InvariantCulture));
        string[] totals = [$"{explorer._runs}", $"{explorer._digest:x16}"];
        return explorer._broken is not var (seed, outcome)
            ? totals
            : [.. totals, $"{seed}", outcome.Broken!, .. bool.Parse(arguments[5]) ? Steps(explorer._scenario, outcome) : []];
    }

    /// <summary>The history of one run, as text. Called across the boundary, too.</summary>
    /// <param name="arguments">The name of the scenario and the seed.</param>
    public static string[] Trace(string[] arguments) =>
    [
        .. Simulations.Run(arguments[0], new Choices(ulong.Parse(arguments[1], CultureInfo.InvariantCulture)), isTraced: true).Trace,
    ];

    /// <summary>The numbered steps of a simplified run, but for heartbeats and the ticks of timers.</summary>
    private static IEnumerable<string> Steps(string scenario, Outcome outcome)
    {
        var simplest = new Shrinker(scenario, outcome.Broken!).Shrink(outcome.Choices);
        return Simulations.Run(scenario, new Choices(simplest), isTraced: true).Trace
            .Where(line => !line.Contains("heartbeat", StringComparison.Ordinal) && !line.Contains(" 4 ", StringComparison.Ordinal)
                && !line.EndsWith("a timer ticks", StringComparison.Ordinal))
            .Select((line, number) => $"{number + 1}. {line}");
    }

    private void Run(int threads)
    {
        var workers = Enumerable.Range(0, threads).Select(_ => new Thread(Work)).ToArray();
        Array.ForEach(workers, worker => worker.Start());
        Array.ForEach(workers, worker => worker.Join());
    }

    private void Work()
    {
        int next;
        while (_broken is null && Stopwatch.GetElapsedTime(_began) < _limit && (next = Interlocked.Increment(ref _next)) <= _count)
        {
            var seed = _first + (ulong)next - 1;
            var outcome = Simulations.Run(_scenario, new Choices(seed));
            lock (_lock)
            {
                _runs++;
                _digest = unchecked(_digest + outcome.Digest);
                if (outcome.Broken is not null && !(_broken?.Seed < seed))
                {
                    _broken = (seed, outcome);
                }
            }
        }
    }
}
