namespace CachingApi.Caching;

/// <summary>
/// A feature implements it to use write-behind: it applies a change to a value, and persists changes. An implementation contains SQL and
/// rules; the library handles the order of writes, retries, dead letters and the cache.
/// </summary>
/// <typeparam name="T">The cached type, which has a version.</typeparam>
/// <typeparam name="TChange">A change as it is queued.</typeparam>
public interface IWriteBehind<T, TChange>
    where T : class
    where TChange : class
{
    /// <summary>The value with the change, as it is served until the row has the change.</summary>
    /// <param name="revision">The version and fencing token of the change; the value must carry both.</param>
    T Apply(T current, TChange change, Revision revision);

    /// <summary>
    /// Whether the change may be acknowledged before it is in the database. <c>false</c> if only the database can check it, such as a
    /// change of a unique value.
    /// </summary>
    bool CanDefer(T current, TChange change) => true;

    /// <summary>Commits one change synchronously: see <see cref="Cache{T}.WriteAsync"/>.</summary>
    /// <param name="versions">
    /// The versions that may be changed; <c>null</c> for any. If <paramref name="fence"/> has a pending write that lies over the row, its
    /// version counts, not that of the row.
    /// </param>
    Task<WriteResult<T>> CommitAsync(
        string id, TChange change, IReadOnlyCollection<long>? versions, WriteFence fence, CancellationToken cancel);

    /// <summary>
    /// Persists changes, one per entity, in one statement. It changes a row only if <see cref="DeferredWrite{TChange}.MayOverwrite"/>
    /// allows it for the row's fence. It sets the row's fence to the token of the write, and the row's version to at least that of the
    /// write.
    /// </summary>
    /// <returns>Each row that exists, after the statement, in any order. Rows that are locked may be left unwritten.</returns>
    /// <exception cref="Exception">
    /// The database is away (see <see cref="IsTransient"/>), or it refuses one of the writes and therefore the whole statement.
    /// </exception>
    Task<IReadOnlyCollection<PersistedRow>> PersistAsync(IReadOnlyList<DeferredWrite<TChange>> writes, CancellationToken cancel);

    /// <summary>
    /// Gives the row a version later than <paramref name="write"/>'s, because the write is given up. Sets the row's fence to the token of
    /// the write, unless the row has a later fence.
    /// </summary>
    /// <returns>The revision of the row after that; <c>null</c> if the row does not exist.</returns>
    Task<Revision?> BumpVersionAsync(string id, Revision write, CancellationToken cancel);

    /// <summary>
    /// Whether the same statement may succeed later, unchanged. If not, the database refuses the data: the write is tried a few times more
    /// and then becomes a dead letter.
    /// </summary>
    /// <remarks>
    /// By default: a lost connection, a time-out, and the SQLSTATEs of connections, resources, locks and missing privileges. Every other
    /// failure counts as a refusal, so that one write cannot block the others of its cache.
    /// </remarks>
    bool IsTransient(Exception failure) => TransientFailures.Includes(failure);
}

/// <summary>A write that is in the queue.</summary>
/// <param name="Version">The version that it was acknowledged with.</param>
/// <param name="Token">Its fencing token.</param>
/// <param name="Over">The highest fence that it may overwrite.</param>
public readonly record struct DeferredWrite<TChange>(string Id, TChange Change, long Version, long Token, long Over)
{
    /// <summary>Beyond this fence, a row's fence orders nothing and may be overwritten: see <see cref="WriteFence.MaxFence"/>.</summary>
    public long MaxFence => Token + WriteBehindQueue.MaxLead;

    /// <summary>Whether the write may change a row with this fence: <c>fence &lt;= over OR fence &gt; maxFence</c> in SQL.</summary>
    public bool MayOverwrite(long fence) => fence <= Over || fence > MaxFence;
}

/// <summary>A row after <see cref="IWriteBehind{T, TChange}.PersistAsync"/>.</summary>
/// <param name="Written">Whether the statement wrote it.</param>
/// <param name="Rejection">Why a rule of the feature forbids the write for good; <c>null</c> if none does.</param>
public readonly record struct PersistedRow(string Id, bool Written, long Version, long Fence, string? Rejection = null);

/// <summary>How changes of one cache are queued.</summary>
public sealed class WriteBehindSettings
{
    /// <summary>The name of the queue in Redis. Two caches must not share one.</summary>
    public string Queue { get; set; } = "";

    /// <summary>
    /// The setting that requires write-behind, if one does: then the start fails if Redis could lose the queue. If <c>null</c>, such a
    /// Redis only turns write-behind off.
    /// </summary>
    public Func<IServiceProvider, string?> RequiredBy { get; set; } = _ => null;
}
