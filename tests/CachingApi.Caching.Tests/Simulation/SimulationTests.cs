using System.Diagnostics;
using System.Globalization;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>The promises of docs/guarantees.md in simulations: see README.md in this folder.</summary>
public sealed class SimulationTests(ITestOutputHelper output)
{
    private static readonly SimulatedLibrary Library = new(Environment.GetEnvironmentVariable("CACHINGAPI_SIMULATED_LIBRARY"));

    private static readonly TimeSpan NoLimit = TimeSpan.FromHours(1);

    /// <summary>How many schedules of each scenario the suite runs; <c>./dev explore</c> runs more.</summary>
    private const int Count = 100;

    public static TheoryData<string> Scenarios => [.. Simulations.Names];

    [Theory]
    [MemberData(nameof(Scenarios))]
    public void Every_schedule_keeps_the_promises(string scenario)
    {
        var result = Library.Explore(scenario, 1, Count, NoLimit, withSteps: true);
        Assert.True(result.Length == 2, string.Join('\n', result.Skip(2)));
    }

    [Theory]
    [MemberData(nameof(Scenarios))]
    public void The_same_seed_gives_the_same_history(string scenario)
    {
        var again = new SimulatedLibrary();
        for (var seed = 1UL; seed <= 5; seed++)
        {
            Assert.Equal(Library.Trace(scenario, seed), again.Trace(scenario, seed));
        }
    }

    /// <summary><c>./dev explore</c></summary>
    [Fact(Explicit = true)]
    public void Explore()
    {
        var (seed, most) = ((ulong)Setting("CACHINGAPI_SEED", 1), Setting("CACHINGAPI_SCHEDULES", int.MaxValue));
        var limit = TimeSpan.FromSeconds(Setting("CACHINGAPI_EXPLORE_SECONDS", 600));
        var (began, round, withSteps) = (Stopwatch.GetTimestamp(), 25, Setting("CACHINGAPI_STEPS", 1) == 1);
        var only = Environment.GetEnvironmentVariable("CACHINGAPI_SCENARIO");
        var explored = Simulations.Names.Where(each => string.IsNullOrEmpty(only) || only.Split(';').Contains(each))
            .ToDictionary(each => each, _ => (Schedules: 0L, Digest: 0UL));
        for (var left = most; left > 0 && Stopwatch.GetElapsedTime(began) < limit; left -= round, seed += (ulong)round)
        {
            foreach (var scenario in explored.Keys)
            {
                var time = limit - Stopwatch.GetElapsedTime(began);
                if (time <= TimeSpan.Zero)
                {
                    break;
                }

                var result = Library.Explore(scenario, seed, Math.Min(left, round), time, withSteps);
                explored[scenario] = (
                    explored[scenario].Schedules + long.Parse(result[0], CultureInfo.InvariantCulture),
                    unchecked(explored[scenario].Digest
                        + ulong.Parse(result[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture)));
                if (result is [_, _, var broken, var promise, .. var steps])
                {
                    var total = explored.Values.Sum(each => each.Schedules);
                    output.WriteLine($"Schedule {total}: seed {broken} of \"{scenario}\" breaks \"{promise}\"");
                    Array.ForEach(steps, output.WriteLine);
                    Assert.Fail($"Seed {broken} of \"{scenario}\" breaks \"{promise}\".");
                }
            }

            var (sum, last) = (explored.Values.Sum(each => each.Schedules), seed + (ulong)Math.Min(left, round) - 1);
            output.WriteLine($"{sum} schedules keep the promises, up to seed {last}");
        }

        foreach (var (scenario, (schedules, digest)) in explored)
        {
            output.WriteLine($"{schedules,9} schedules of \"{scenario}\"; digest: {digest:x16}");
        }
    }

    private static int Setting(string name, int otherwise) =>
        int.TryParse(Environment.GetEnvironmentVariable(name), CultureInfo.InvariantCulture, out var value) ? value : otherwise;
}
