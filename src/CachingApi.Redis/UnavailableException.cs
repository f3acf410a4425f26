namespace CachingApi.Redis;

/// <summary>A server that this one depends on does not answer. The caller can try again after <see cref="RetryAfter"/>.</summary>
public sealed class UnavailableException(string what, Exception? cause = null) : Exception($"{what} is not available.", cause)
{
    /// <summary>The time after which a caller can try again.</summary>
    public TimeSpan RetryAfter { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>The HTTP status of that server's answer, if it answered.</summary>
    public int? Status { get; init; }
}
