using CachingApi.Caching.Operations;
using CachingApi.Redis;

namespace CachingApi.Caching;

/// <remarks>
/// A write that has begun is finished, including the update of the cache, even if its caller cancels: a commit without its invalidation
/// would leave the old value in the cache.
/// </remarks>
public sealed partial class Cache<T>
{
    /// <summary>The scripts of the queue count versions as Lua numbers, which are exact up to 2^53; the rest is a margin.</summary>
    private const long MaxDeferredVersion = (1L << 53) - 1_000_000;

    /// <summary>Without a state server, the fences of this process are times in microseconds, each later than the one before.</summary>
    private long _lastToken;

    /// <summary>Commits, then updates the cache, clears the dependent caches, and confirms the version.</summary>
    /// <param name="commit">
    /// Changes the row if its fence is earlier than the token (or beyond <see cref="WriteFence.MaxFence"/>), and gives it that token and a
    /// version of at least <see cref="WriteFence.Version"/>. If the row has a later fence, it returns <see cref="WriteOutcome.Superseded"/>
    /// with that fence, and the cache calls it again.
    /// </param>
    /// <exception cref="ArgumentException">The strategy is write-behind: that needs a change that can be queued.</exception>
    /// <exception cref="UnavailableException">The state server is away: nothing was committed.</exception>
    public async Task<WriteResult<T>> WriteAsync(
        string id, WriteStrategy strategy, Func<WriteFence, CancellationToken, Task<WriteResult<T>>> commit, CancellationToken cancel)
    {
        if (strategy is WriteStrategy.WriteBehind)
        {
            throw new ArgumentException("Write-behind needs a change that can be queued: see WriteAsync with a change.", nameof(strategy));
        }

        cancel.ThrowIfCancellationRequested();
        var began = Moment.Now;
        var (result, _) = await CommitAsync(id, commit);
        if (result.Outcome is WriteOutcome.Committed)
        {
            await UpdateAsync(id, result.Value, strategy, began);
        }

        return result;
    }

    /// <summary>
    /// Updates the cache after a commit. If that fails, or if there is no value, it invalidates the entry whatever its version is.
    /// </summary>
    private async Task UpdateAsync(string id, T? committed, WriteStrategy strategy, Moment began)
    {
        if (committed is null)
        {
            await InvalidateUnorderedAsync(id);
            return;
        }

        try
        {
            var revision = RevisionOf(committed);
            await Task.WhenAll(
                strategy is WriteStrategy.Invalidate ? InvalidateEntryAsync(id, revision) : PutAsync(id, committed, began),
                ClearDependentsAsync(id, revision),
                _writeBehind?.ConfirmAsync(id, revision.Version, CancellationToken.None) ?? Task.CompletedTask);
        }
        catch (Exception)
        {
            // For example, the value cannot be serialised as JSON: it is committed nevertheless.
            await InvalidateUnorderedAsync(id);
            throw;
        }
    }

    /// <remarks>
    /// The clear names no cause, because the revision is not known. If it named a later revision, change capture would assume that the next
    /// change of the entity has already led to a clear.
    /// </remarks>
    private Task InvalidateUnorderedAsync(string id) =>
        Task.WhenAll(InvalidateAsync(id, CancellationToken.None), ClearDependentsAsync(cause: null));

    /// <summary>
    /// Writes a change by the given strategy. Write-behind falls back to write-through if the queue does not take the change, or if the
    /// change cannot be deferred.
    /// </summary>
    /// <param name="versions">The versions that may be changed; <c>null</c> for any.</param>
    /// <exception cref="InvalidOperationException">The cache has no <c>WriteBehindWith</c> for changes of this type.</exception>
    /// <exception cref="UnavailableException">The state server is away: it is not known whether the queue took the change.</exception>
    public Task<WriteResult<T>> WriteAsync<TChange>(
        string id, TChange change, IReadOnlyCollection<long>? versions, WriteStrategy strategy, CancellationToken cancel)
        where TChange : class
    {
        var target = Target as WriteBehindTarget<T, TChange>
            ?? throw new InvalidOperationException(
                $"The cache {Name} has no writer of {typeof(TChange).Name}: declare one with WriteBehindWith.");
        cancel.ThrowIfCancellationRequested();
        return strategy is WriteStrategy.WriteBehind && _writeBehind is not null
            ? DeferAsync(_writeBehind, id, change, versions, target)
            : CommitAsync(id, change, versions, target, strategy is WriteStrategy.WriteBehind ? WriteStrategy.WriteThrough : strategy);
    }

    private Task<WriteResult<T>> CommitAsync<TChange>(
        string id, TChange change, IReadOnlyCollection<long>? versions, WriteBehindTarget<T, TChange> target, WriteStrategy strategy)
        where TChange : class =>
        WriteAsync(id, strategy, (fence, stop) => target.CommitAsync(id, change, versions, fence, stop), CancellationToken.None);

    private async Task<WriteResult<T>> DeferAsync<TChange>(
        WriteBehind writeBehind,
        string id,
        TChange change,
        IReadOnlyCollection<long>? versions,
        WriteBehindTarget<T, TChange> target)
        where TChange : class
    {
        var began = Moment.Now;
        var found = await GetAsync(id, CancellationToken.None);

        // A precondition is compared with the row, because the cache may not yet have a change that another client has made to the row.
        // The value is read before the change is accepted, so that an accepted change cannot fail because the value cannot be read.
        var current = !found.Found ? null : versions is null ? found.Value : await LoadAsync(id, CancellationToken.None);
        if (current is null)
        {
            return WriteOutcome.NotFound;
        }

        if (!target.CanDefer(current, change) || _definition.Version!(current) > MaxDeferredVersion)
        {
            return await CommitAsync(id, change, versions, target, WriteStrategy.WriteThrough);
        }

        var known = new Revision(_definition.Version!(current), Math.Max(found.Entry.Revision.Fence, RevisionOf(current).Fence));
        var accepted = await writeBehind.AcceptAsync(id, known, versions, target.Serialize(change), CancellationToken.None);
        switch (accepted.State)
        {
            case AcceptState.Accepted:
                var value = target.Apply(current, change, new(accepted.Version, accepted.Token));
                await PutAsync(id, value, began);
                return new(WriteOutcome.Accepted, value);
            case AcceptState.VersionMismatch:
                return WriteOutcome.VersionMismatch;
            default:
                return await CommitAsync(id, change, versions, target, WriteStrategy.WriteThrough);
        }
    }

    /// <summary>
    /// Deletes the entity: commits, then sets a negative entry that keeps older revisions out, clears the dependent caches, and drops the
    /// entity's dead letters.
    /// </summary>
    /// <param name="commit">As for <see cref="WriteAsync"/>; its value is the entity as it was.</param>
    /// <exception cref="UnavailableException">
    /// The state server is away. The entity may already be deleted; deleting it again is safe.
    /// </exception>
    public async Task<WriteResult<T>> DeleteAsync(
        string id, Func<WriteFence, CancellationToken, Task<WriteResult<T>>> commit, CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        var began = Moment.Now;
        var (result, fence) = await CommitAsync(id, commit);

        // Also if the entity does not exist: an earlier call may have deleted it and failed after that.
        var forgotten = _writeBehind?.ForgetAsync(id, CancellationToken.None) ?? Task.CompletedTask;
        if (result is not { Outcome: WriteOutcome.Committed, Value: { } deleted })
        {
            await Task.WhenAll(forgotten, result.Outcome is WriteOutcome.Committed ? InvalidateUnorderedAsync(id) : Task.CompletedTask);
            return result;
        }

        var revision = new Revision(
            Math.Max(RevisionOf(deleted).Version + 1, fence.Version), _writeBehind is null ? RevisionOf(deleted).Fence : fence.Token);
        await Task.WhenAll(
            IsVersioned
                ? _engine.Invalidation.MarkDeletedAsync(Key(id), revision, began, CancellationToken.None)
                : InvalidateAsync(id, CancellationToken.None),
            ClearDependentsAsync(id, revision),
            forgotten);
        return result;
    }

    /// <summary>
    /// After a commit that was not made through this cache, such as an insert: invalidates older entries and clears the dependent caches.
    /// </summary>
    /// <param name="committed">The value after the commit.</param>
    public Task InvalidateAsync(string id, T committed, CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        return Task.WhenAll(InvalidateEntryAsync(id, RevisionOf(committed)), ClearDependentsAsync(id, RevisionOf(committed)));
    }

    /// <summary>
    /// Invalidates the entry of an entity, whatever its version: the next read loads it. While Redis is away, the invalidation is queued.
    /// </summary>
    public Task InvalidateAsync(string id, CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        return _engine.Invalidation.InvalidateAsync(this, id, CancellationToken.None);
    }

    /// <inheritdoc/>
    public override Task ApplyAsync(EntityChange change, CancellationToken cancel) => change.IsDeletion
        ? _engine.Invalidation.MarkDeletedAsync(Key(change.Id), change.Revision, Moment.Now, cancel)
        : _engine.Invalidation.InvalidateAsync(Key(change.Id), change.Revision, cancel);

    internal Task ClearDependentsOfAsync(IEnumerable<EntityChange> changes) =>
        Task.WhenAll(changes.Select(change => ClearDependentsAsync(change.Id, change.Revision)));

    private bool IsVersioned => _definition.Version is not null;

    /// <summary>A commit under a fencing token, repeated with a new token if a later write was committed first.</summary>
    private async Task<(WriteResult<T> Result, WriteFence Fence)> CommitAsync(
        string id, Func<WriteFence, CancellationToken, Task<WriteResult<T>>> commit)
    {
        for (var rowFence = 0L; ;)
        {
            var fence = _writeBehind is not null ? await _writeBehind.AcquireFenceAsync(id, rowFence, CancellationToken.None)
                : Target is not null ? LocalFence(rowFence)
                : WriteFence.None;
            var result = await commit(fence, CancellationToken.None);
            if (result.Outcome is not WriteOutcome.Superseded)
            {
                return (result, fence);
            }

            rowFence = result.Fence;
        }
    }

    /// <summary>A fence without a state server: no other process writes, and no write is pending.</summary>
    private WriteFence LocalFence(long rowFence)
    {
        long last, next;
        do
        {
            last = Volatile.Read(ref _lastToken);
            next = Math.Max(Math.Max(last, rowFence) + 1, _engine.CacheAside.Microseconds);
        }
        while (Interlocked.CompareExchange(ref _lastToken, next, last) != last);

        return WriteFence.None with { Token = next };
    }

    /// <remarks>Without a version, two writers' values cannot be ordered: an invalidation is safe.</remarks>
    private Task PutAsync(string id, T value, Moment began) => IsVersioned
        ? _engine.WriteThrough.PutAsync(Key(id), value, began, CancellationToken.None)
        : InvalidateAsync(id, CancellationToken.None);

    private Task InvalidateEntryAsync(string id, Revision revision) => IsVersioned
        ? _engine.Invalidation.InvalidateAsync(Key(id), revision, CancellationToken.None)
        : InvalidateAsync(id, CancellationToken.None);
}
