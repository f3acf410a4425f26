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

/// <summary>What became of a write.</summary>
public enum WriteOutcome
{
    /// <summary>The source has it.</summary>
    Committed,

    /// <summary>It is in the queue of write-behind and will be persisted.</summary>
    Accepted,

    /// <summary>The entity does not exist.</summary>
    NotFound,

    /// <summary>The entity has another version than those that may be changed.</summary>
    VersionMismatch,

    /// <summary>It conflicts with another entity, such as by a value that must be unique.</summary>
    Conflict,

    /// <summary>A rule of the feature does not allow it.</summary>
    Rejected,

    /// <summary>
    /// Only from a commit: a write with a later fencing token was there before. The cache commits again, with a new token.
    /// </summary>
    Superseded,
}

/// <summary>The outcome of a write, and the value after it if it took place. A commit returns one, and so does the cache.</summary>
/// <param name="Fence">Of a superseded commit: the fencing token that the row has, or 0.</param>
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
/// <param name="Version">The version to give the row at least; 0 for the row's plus 1.</param>
/// <param name="PendingToken">The token of the write that is pending before this one; 0 if none is.</param>
/// <param name="PendingVersion">The version of the pending write.</param>
/// <param name="PendingOver">The highest fence that the pending write may overwrite; -1 if none is pending.</param>
public readonly record struct WriteFence(long Token, long Version, long PendingToken, long PendingVersion, long PendingOver)
{
    /// <summary>
    /// The highest fence that orders anything. A row's fence beyond it cannot have been issued by a state server; it may be overwritten.
    /// </summary>
    public long MaxFence => MaxFenceAfter(Token);

    /// <summary>As <see cref="MaxFence"/>, of any token.</summary>
    public static long MaxFenceAfter(long token) => token + WriteBehindQueue.MaxLead;

    internal static WriteFence None { get; } = new(0, 0, 0, 0, -1);
}
