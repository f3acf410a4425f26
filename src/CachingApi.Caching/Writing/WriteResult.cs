namespace CachingApi.Caching;

/// <summary>How a write reaches the cache.</summary>
public enum WriteStrategy
{
    /// <summary>After the commit, the new value replaces the entry: the next read is a hit.</summary>
    WriteThrough,

    /// <summary>After the commit, a tombstone replaces the entry: the next read loads the value.</summary>
    Invalidate,

    /// <summary>A durable queue takes the change, which is served at once and persisted later.</summary>
    WriteBehind,
}

/// <summary>The outcome of a write.</summary>
public enum WriteOutcome
{
    /// <summary>The source has the write.</summary>
    Committed,

    /// <summary>The write is in the write-behind queue and will be persisted.</summary>
    Accepted,

    /// <summary>The entity does not exist.</summary>
    NotFound,

    /// <summary>The entity's version is not one of the expected versions.</summary>
    VersionMismatch,

    /// <summary>The write conflicts with another entity, for example because a value must be unique.</summary>
    Conflict,

    /// <summary>A rule of the feature does not allow the write.</summary>
    Rejected,

    /// <summary>
    /// Only returned by a commit: a write with a later fencing token was committed first. The cache repeats the commit with a new token.
    /// </summary>
    Superseded,
}

/// <summary>The outcome of a write, and the value after it if it took place. Commits return it, and so does the cache.</summary>
/// <param name="Fence">For a superseded commit: the fencing token that the row has, or 0.</param>
public readonly record struct WriteResult<T>(WriteOutcome Outcome, T? Value = null, long Fence = 0) where T : class
{
    /// <summary>A commit that took place.</summary>
    public static implicit operator WriteResult<T>(T value) => new(WriteOutcome.Committed, value);

    /// <summary>A commit that did not take place.</summary>
    public static implicit operator WriteResult<T>(WriteOutcome outcome) => new(outcome);
}

/// <summary>
/// The place of a synchronous write among all writes of its entity. The row keeps the token of its last write, and no write with an
/// earlier one changes it (Kleppmann, "How to do distributed locking", 2016).
/// </summary>
/// <param name="Token">The fencing token; 0 if the cache has no write-behind, because the version then orders the writes.</param>
/// <param name="Version">The minimum version to give the row; 0 for the row's plus 1.</param>
/// <param name="PendingToken">The token of the write that is pending before this one; 0 if none is pending.</param>
/// <param name="PendingVersion">The version of the pending write.</param>
/// <param name="PendingOver">The highest fence that the pending write may overwrite; -1 if none is pending.</param>
public readonly record struct WriteFence(long Token, long Version, long PendingToken, long PendingVersion, long PendingOver)
{
    /// <summary>
    /// The highest fence that orders writes. No state server can have issued a fence beyond it, so the write may overwrite it.
    /// </summary>
    public long MaxFence => MaxFenceAfter(Token);

    /// <summary>As <see cref="MaxFence"/>, for any token.</summary>
    public static long MaxFenceAfter(long token) => token + WriteBehindQueue.MaxLead;

    internal static WriteFence None { get; } = new(0, 0, 0, 0, -1);
}
