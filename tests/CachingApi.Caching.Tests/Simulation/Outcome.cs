namespace CachingApi.Caching.Tests.Simulation;

/// <summary>The outcome of a run.</summary>
/// <param name="Broken">The promise that it broke; <c>null</c> if it kept all of them.</param>
/// <param name="How">How it broke the promise.</param>
/// <param name="Choices">All of its decisions.</param>
/// <param name="Digest">A digest of its history.</param>
/// <param name="Trace">Its history as text, if it was traced.</param>
internal sealed record Outcome(string? Broken, string? How, IReadOnlyList<int> Choices, ulong Digest, IReadOnlyList<string> Trace);

/// <summary>A promise of docs/guarantees.md that a run has broken.</summary>
internal sealed class BrokenPromiseException(string promise, string how) : Exception($"{promise}: {how}")
{
    public string Promise => promise;
}
