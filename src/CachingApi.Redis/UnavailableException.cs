namespace CachingApi.Redis;

/// <summary>A server this one depends on does not answer; the caller may come back after <see cref="RetryAfter"/>.</summary>
public sealed class UnavailableException(string what, Exception? cause = null) : Exception($"{what} is not available.", cause)
{
    /// <summary>After which time a caller may try again.</summary>
    public TimeSpan RetryAfter { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>The HTTP status that it answered, if it did.</summary>
    public int? Status { get; init; }
}
