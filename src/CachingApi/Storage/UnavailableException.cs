namespace CachingApi.Storage;

/// <summary>A server this one depends on does not answer; the caller may come back after <see cref="RetryAfter"/>.</summary>
internal sealed class UnavailableException(string what, Exception? cause = null) : Exception($"{what} is not available.", cause)
{
    public TimeSpan RetryAfter { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>The HTTP status that it answered, where it did.</summary>
    public int? Status { get; init; }
}
