using CachingApi.Lab.Experiments;

namespace CachingApi.Lab;

/// <summary>One experiment of the lab.</summary>
/// <param name="Name">The argument of <c>./dev lab</c>, and the name of its picture.</param>
/// <param name="Title">Its heading on the page.</param>
internal sealed record Experiment(string Name, string Title, Func<Lab, CancellationToken, Task<Report>> RunAsync)
{
    public static IReadOnlyList<Experiment> All { get; } =
    [
        Stampede.Experiment,
        MassExpiry.Experiment,
        EarlyRefresh.Experiment,
        StaleSetRace.Experiment,
        Consistency.Experiment,
        WriteBehind.Experiment,
        RateLimits.Experiment,
        FrozenRedis.Experiment,
        Eviction.Experiment,
        TtlLength.Experiment,
        Penetration.Experiment,
        MemoryTier.Experiment,
    ];
}

/// <summary>What an experiment has found. Each text is one sentence, and its figures are those of the run.</summary>
internal sealed record Report
{
    public required Picture Picture { get; init; }

    /// <summary>What was done.</summary>
    public required string Done { get; init; }

    /// <summary>What one sees.</summary>
    public required string Seen { get; init; }

    /// <summary>The trade-off, and where this library loses.</summary>
    public required string Lesson { get; init; }

    /// <summary>How each contender was set up.</summary>
    public required IReadOnlyList<(string Contender, string Settings)> Settings { get; init; }
}
