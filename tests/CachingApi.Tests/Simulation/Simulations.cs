using CachingApi.RateLimiting;
using CachingApi.Tests.Simulation;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>The simulations of the service, by the names of their scenarios.</summary>
internal static class Simulations
{
    private static readonly string[] Algorithms =
        [Algorithm.FixedWindow, Algorithm.SlidingWindow, Algorithm.SlidingWindowCounter, Algorithm.TokenBucket];

    public static IEnumerable<string> Names =>
        [.. Algorithms.Select(algorithm => $"limits: {algorithm}"), "limits: refunds", "limits: denials", "sessions"];

    public static Outcome Run(string scenario, Choices choices, bool isTraced = false)
    {
        using ServiceSimulation simulation = scenario switch
        {
            "sessions" => new SessionsSimulation(choices, isTraced),
            "limits: refunds" => new LimitsSimulation(
                Algorithms[choices.Next(2) * 2], isRefunds: true, isDenials: false, choices, isTraced),
            "limits: denials" => new LimitsSimulation(
                Algorithms[choices.Next(3)], isRefunds: false, isDenials: true, choices, isTraced),
            _ => new LimitsSimulation(scenario.Split(": ")[1], isRefunds: false, isDenials: false, choices, isTraced),
        };
        return simulation.Run();
    }
}
