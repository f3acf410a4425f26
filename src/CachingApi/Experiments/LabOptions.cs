namespace CachingApi.Experiments;

/// <summary>The section <c>Lab</c>.</summary>
internal sealed class LabOptions
{
    /// <summary>Whether administrators can start experiments outside of Development, too.</summary>
    public bool Enabled { get; init; }
}
