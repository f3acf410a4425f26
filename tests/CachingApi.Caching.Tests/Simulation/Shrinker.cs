namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// Simplifies a run that breaks a promise: leaves out decisions, or replaces them by calmer ones, as long as the run breaks the same
/// promise.
/// </summary>
internal sealed class Shrinker(string scenario, string promise)
{
    private const int MaxRuns = 1500;

    private int _runs;

    /// <summary>The decisions of a simple run that breaks the promise.</summary>
    public IReadOnlyList<int> Shrink(IReadOnlyList<int> choices)
    {
        var simplest = choices;
        for (var before = -1; before != Weight(simplest) && _runs < MaxRuns;)
        {
            before = Weight(simplest);
            simplest = Shortened(simplest);
            for (var size = simplest.Count / 2; size > 0; size /= 2)
            {
                simplest = Without(simplest, size);
                simplest = Calmer(simplest, size);
            }
        }

        return simplest;
    }

    /// <summary>How far a run is from one in which each decision is the calmest.</summary>
    private static int Weight(IReadOnlyList<int> choices) => choices.Sum(choice => choice > 0 ? 16 + choice : 0) + choices.Count;

    private IReadOnlyList<int> Shortened(IReadOnlyList<int> choices)
    {
        for (var cut = choices.Count / 2; cut > 0; cut /= 2)
        {
            while (cut < choices.Count && Breaks([.. choices.Take(choices.Count - cut)]) is { } shorter)
            {
                choices = shorter;
            }
        }

        return choices;
    }

    private IReadOnlyList<int> Without(IReadOnlyList<int> choices, int size)
    {
        for (var at = choices.Count - size; at >= 0; at -= size)
        {
            choices = Breaks([.. choices.Take(at), .. choices.Skip(at + size)]) ?? choices;
            at = Math.Min(at, choices.Count);
        }

        return choices;
    }

    private IReadOnlyList<int> Calmer(IReadOnlyList<int> choices, int size)
    {
        for (var at = choices.Count - size; at >= 0; at -= size)
        {
            if (choices.Skip(at).Take(size).Any(choice => choice > 0))
            {
                var (from, to) = (at, at + size);
                choices = Breaks([.. choices.Select((choice, place) => place >= from && place < to ? 0 : choice)])
                    ?? Breaks([.. choices.Select((choice, place) => place >= from && place < to ? choice / 2 : choice)])
                    ?? choices;
                at = Math.Min(at, choices.Count);
            }
        }

        return choices;
    }

    /// <summary>The decisions that a run has used, if it breaks the promise and they are simpler.</summary>
    private IReadOnlyList<int>? Breaks(IReadOnlyList<int> choices)
    {
        if (_runs++ >= MaxRuns)
        {
            return null;
        }

        var outcome = Simulations.Run(scenario, new Choices(choices));
        var used = outcome.Choices.Count < choices.Count ? outcome.Choices : choices;
        return outcome.Broken == promise ? used : null;
    }
}
