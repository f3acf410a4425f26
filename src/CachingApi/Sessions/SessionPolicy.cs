using System.ComponentModel.DataAnnotations;

namespace CachingApi.Sessions;

/// <summary>How long sessions last: the section <c>Sessions</c>.</summary>
internal sealed class SessionPolicy
{
    /// <summary>A session that is not used for this long ends.</summary>
    [Range(typeof(TimeSpan), "00:00:01", "30.00:00:00")]
    public TimeSpan Idle { get; init; } = TimeSpan.FromHours(24);

    /// <summary>Every session ends this long after it began, even if it is used.</summary>
    [Range(typeof(TimeSpan), "00:00:01", "365.00:00:00")]
    public TimeSpan Absolute { get; init; } = TimeSpan.FromDays(7);

    /// <summary>
    /// How long a process serves a session from its memory before it asks Redis again; it asks at least once a minute. Zero: each time.
    /// </summary>
    [Range(typeof(TimeSpan), "00:00:00", "00:05:00")]
    public TimeSpan MemoryTtl { get; init; } = TimeSpan.FromSeconds(30);
}
