namespace CachingApi.Caching.Tests.Simulation;

/// <summary>The simulations of this assembly, by the names of their scenarios.</summary>
internal static class Simulations
{
    public static IEnumerable<string> Names => Scenario.All.Select(scenario => scenario.Name);

    public static Outcome Run(string scenario, Choices choices, bool isTraced = false) =>
        Simulation.Run(Scenario.All.Single(each => each.Name == scenario), choices, isTraced);
}
