using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Caching.Operations;

namespace CachingApi.Caching;

internal enum PersistOutcome
{
    /// <summary>The row has the write now.</summary>
    Persisted,

    /// <summary>
    /// The row has a fence that the write may not overwrite, perhaps its own: see <see cref="WriteBehindQueue.ReacceptAsync"/>.
    /// </summary>
    Fenced,

    /// <summary>Another transaction has the row locked, or has just changed it: the write is tried again soon.</summary>
    Again,

    /// <summary>The database refuses the write in its current state: it may be tried again.</summary>
    Refused,

    /// <summary>The write can never be persisted.</summary>
    Impossible,
}

/// <param name="Version">The version that the entity has now.</param>
/// <param name="Reason">Why it was refused.</param>
internal readonly record struct PersistResult(PersistOutcome Outcome, long Version, string Reason = "")
{
    /// <summary>The row's fence, if the write may not overwrite it.</summary>
    public long Fence { get; init; }
}

/// <summary>The target of the write-behind consumer: a cache and its feature's SQL.</summary>
internal abstract class WriteBehindTarget
{
    /// <summary>
    /// Persists writes, one per entity, and invalidates older cache entries; results are in the same order.
    /// </summary>
    /// <exception cref="Exception">The database is away.</exception>
    public abstract Task<IReadOnlyList<PersistResult>> PersistAsync(IReadOnlyList<QueuedWrite> writes, CancellationToken cancel);

    /// <summary>The revision of an entity's row; 0 if it does not exist.</summary>
    public abstract Task<Revision> RowAsync(string id, CancellationToken cancel);

    /// <summary>
    /// Gives up a write: the entity keeps the database's value, under a revision later than the write's. Returns that revision.
    /// </summary>
    public abstract Task<Revision> BumpVersionAsync(QueuedWrite write, CancellationToken cancel);

    /// <summary>Invalidates the cache entry of an entity whose write was given up.</summary>
    public abstract Task InvalidateAsync(QueuedWrite write, Revision revision, CancellationToken cancel);

    /// <summary>
    /// Queues the change of a dead letter as a new write; <c>false</c> if the entity does not exist or the change is not possible.
    /// </summary>
    public abstract Task<bool> RetryAsync(QueuedWrite write, CancellationToken cancel);
}

/// <inheritdoc/>
internal abstract class WriteBehindTarget<T> : WriteBehindTarget where T : class
{
    /// <summary>The row with its pending write applied.</summary>
    public abstract T Apply(T row, PendingWrite pending);
}

/// <inheritdoc/>
internal abstract class WriteBehindTarget<T, TChange>(Cache<T> cache, JsonTypeInfo<TChange> json) : WriteBehindTarget<T>
    where T : class
    where TChange : class
{
    public override T Apply(T row, PendingWrite pending) =>
        Apply(row, JsonSerializer.Deserialize(pending.Value.Span, json)!, new(pending.Version, pending.Token));

    public byte[] Serialize(TChange change) => JsonSerializer.SerializeToUtf8Bytes(change, json);

    public T Apply(T current, TChange change, Revision revision) => With(writer => writer.Apply(current, change, revision));

    public bool CanDefer(T current, TChange change) => With(writer => writer.CanDefer(current, change));

    public Task<WriteResult<T>> CommitAsync(
        string id, TChange change, IReadOnlyCollection<long>? versions, WriteFence fence, CancellationToken cancel) =>
        WithAsync(writer => writer.CommitAsync(id, change, versions, fence, cancel));

    public override async Task<IReadOnlyList<PersistResult>> PersistAsync(IReadOnlyList<QueuedWrite> writes, CancellationToken cancel)
    {
        var results = await PersistOrSplitAsync([.. writes.Select(write => (write, Read(write)))], cancel);
        var persisted = writes.Zip(results)
            .Where(done => done.Second.Outcome is PersistOutcome.Persisted || done.Second.Fence == done.First.Token)
            .Select(done => new EntityChange(done.First.Id, new(done.Second.Version, done.First.Token))).ToArray();

        // The entry that the writer itself cached has this version and stays. Without this invalidation: 1. a write is accepted; 2. its
        // writer dies before it updates the cache; 3. the row has the write, and the cache would keep the value before it.
        await cache.ClearDependentsOfAsync(persisted);
        await Task.WhenAll(persisted.Select(change => cache.ApplyAsync(change, cancel)));
        return results;
    }

    public override async Task<Revision> RowAsync(string id, CancellationToken cancel) =>
        await cache.LoadRowAsync(id, cancel) is { } row ? cache.RevisionOf(row) : default;

    public override async Task<Revision> BumpVersionAsync(QueuedWrite write, CancellationToken cancel)
    {
        try
        {
            return await WithAsync(writer => writer.BumpVersionAsync(write.Id, new(write.Version, write.Token), cancel))
                ?? new(write.Version + 1, write.Token);
        }
        catch (Exception error) when (!cancel.IsCancellationRequested && !With(writer => writer.IsTransient(error)))
        {
            // The row refuses every change, so it keeps its version. Readers are served it again when the tombstone has expired.
            return new(write.Version + 1, write.Token);
        }
    }

    public override async Task InvalidateAsync(QueuedWrite write, Revision revision, CancellationToken cancel)
    {
        var value = await cache.LoadRowAsync(write.Id, cancel);
        await cache.ApplyAsync(
            value is null
                ? new(write.Id, new(revision.Version, write.Token), IsDeletion: true)
                : new(write.Id, new(revision.Version, cache.RevisionOf(value).Fence)),
            cancel);
    }

    public override async Task<bool> RetryAsync(QueuedWrite write, CancellationToken cancel) =>
        Read(write) is { } change
        && await cache.WriteAsync(write.Id, change, versions: null, WriteStrategy.WriteBehind, cancel)
            is { Outcome: WriteOutcome.Accepted or WriteOutcome.Committed };

    /// <summary>Calls the feature's writer, in a service scope of its own.</summary>
    protected abstract TResult With<TResult>(Func<IWriteBehind<T, TChange>, TResult> use);

    /// <inheritdoc cref="With"/>
    protected abstract Task<TResult> WithAsync<TResult>(Func<IWriteBehind<T, TChange>, Task<TResult>> use);

    /// <summary>If the database refuses a batch, the batch is halved until the refused write is found.</summary>
    private async Task<PersistResult[]> PersistOrSplitAsync((QueuedWrite Write, TChange? Change)[] writes, CancellationToken cancel)
    {
        try
        {
            var readable = writes.Where(write => write.Change is not null)
                .Select(write => new DeferredWrite<TChange>(
                    write.Write.Id, write.Change!, write.Write.Version, write.Write.Token, write.Write.Over));
            var rows = (await WithAsync(writer => writer.PersistAsync([.. readable], cancel))).ToDictionary(row => row.Id);
            return
            [
                .. writes.Select(write => write.Change is null
                    ? new(PersistOutcome.Impossible, write.Write.Version, "The queued change cannot be read.")
                    : Result(write.Write, rows)),
            ];
        }
        catch (Exception error) when (!cancel.IsCancellationRequested && !With(writer => writer.IsTransient(error)))
        {
            if (writes.Length == 1)
            {
                return [new(PersistOutcome.Refused, 0, Reason(error))];
            }

            var half = writes.Length / 2;
            return [.. await PersistOrSplitAsync(writes[..half], cancel), .. await PersistOrSplitAsync(writes[half..], cancel)];
        }
    }

    private static string Reason(Exception error) => error is System.Data.Common.DbException { SqlState: { } state }
        ? $"The database refuses the change ({state})."
        : $"The database refuses the change ({error.GetType().Name}).";

    private static PersistResult Result(QueuedWrite write, Dictionary<string, PersistedRow> rows)
    {
        if (!rows.TryGetValue(write.Id, out var row))
        {
            return new(PersistOutcome.Impossible, write.Version, "The entity does not exist.");
        }

        var mayOverwrite = row.Fence <= write.Over || row.Fence > write.Token + WriteBehindQueue.MaxLead;
        return row.Written ? new(PersistOutcome.Persisted, row.Version)
            : !mayOverwrite ? new(PersistOutcome.Fenced, row.Version) { Fence = row.Fence }
            : row.Rejection is { } reason ? new(PersistOutcome.Impossible, row.Version, reason)
            : new(PersistOutcome.Again, row.Version);
    }

    /// <summary>Deserialises the change; <c>null</c> if this build cannot, because another version of the service wrote it.</summary>
    private TChange? Read(QueuedWrite write)
    {
        try
        {
            return JsonSerializer.Deserialize(write.Value.Span, json);
        }
        catch (JsonException)
        {
            return null;
        }
    }
}

/// <inheritdoc/>
internal sealed class WriteBehindTarget<T, TWriter, TChange>(Cache<T> cache, IServiceScopeFactory scopes, JsonTypeInfo<TChange> json)
    : WriteBehindTarget<T, TChange>(cache, json)
    where T : class
    where TWriter : class, IWriteBehind<T, TChange>
    where TChange : class
{
    protected override TResult With<TResult>(Func<IWriteBehind<T, TChange>, TResult> use)
    {
        using var scope = scopes.CreateScope();
        return use(scope.ServiceProvider.GetRequiredService<TWriter>());
    }

    protected override async Task<TResult> WithAsync<TResult>(Func<IWriteBehind<T, TChange>, Task<TResult>> use)
    {
        await using var scope = scopes.CreateAsyncScope();
        return await use(scope.ServiceProvider.GetRequiredService<TWriter>());
    }
}
