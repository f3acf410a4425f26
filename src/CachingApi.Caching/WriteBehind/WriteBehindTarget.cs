using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Caching.Operations;

namespace CachingApi.Caching;

internal enum PersistOutcome
{
    /// <summary>The row has it now, or had it already.</summary>
    Persisted,

    /// <summary>The row has a fence that the write may not overwrite: see <see cref="WriteBehindQueue.ReacceptAsync"/>.</summary>
    Fenced,

    /// <summary>Another transaction has the row locked, or has just changed it: the write is tried again soon.</summary>
    Again,

    /// <summary>The database refuses it as entities are: it may be tried again.</summary>
    Refused,

    /// <summary>The database will never take it.</summary>
    Impossible,
}

/// <param name="Version">The version that the entity has now.</param>
/// <param name="Reason">Why it was refused.</param>
internal readonly record struct PersistResult(PersistOutcome Outcome, long Version, string Reason = "")
{
    /// <summary>The row's fence, if that keeps the write out.</summary>
    public long Fence { get; init; }
}

/// <summary>Where the consumer of write-behind persists to: a cache and its feature's SQL.</summary>
internal abstract class WriteBehindTarget
{
    /// <summary>
    /// Persists writes, one of each entity, and invalidates what the cache holds from before; results are in the same order.
    /// </summary>
    /// <exception cref="Exception">The database is away.</exception>
    public abstract Task<IReadOnlyList<PersistResult>> PersistAsync(IReadOnlyList<QueuedWrite> writes, CancellationToken cancel);

    /// <summary>
    /// Gives up a write: the entity goes on as the database has it, under a revision later than the write's, which is returned.
    /// </summary>
    public abstract Task<Revision> BumpVersionAsync(QueuedWrite write, CancellationToken cancel);

    /// <summary>Invalidates what the cache holds of an entity whose write was given up.</summary>
    public abstract Task InvalidateAsync(QueuedWrite write, Revision revision, CancellationToken cancel);

    /// <summary>
    /// Takes the change of a dead letter as a new write; <c>false</c> if there is no such entity, or if it cannot be changed so.
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
        var persisted = writes.Zip(results).Where(done => done.Second.Outcome is PersistOutcome.Persisted)
            .Select(done => new EntityChange(done.First.Id, new(done.Second.Version, done.First.Token))).ToArray();

        // The writer's own entry has this version and stays. Without it: 1. a write is accepted; 2. its writer dies before it updates the
        // cache; 3. the row has the write, and the cache would keep the value before it.
        await cache.ClearDependentsOfAsync(persisted);
        await Task.WhenAll(persisted.Select(change => cache.ApplyAsync(change, cancel)));
        return results;
    }

    public override async Task<Revision> BumpVersionAsync(QueuedWrite write, CancellationToken cancel)
    {
        try
        {
            return await WithAsync(writer => writer.BumpVersionAsync(write.Id, new(write.Version, write.Token), cancel))
                ?? new(write.Version + 1, write.Token);
        }
        catch (Exception error) when (!cancel.IsCancellationRequested && !With(writer => writer.IsTransient(error)))
        {
            // The row refuses every change: it keeps its version, and readers are shown it again when the tombstone has expired.
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

    /// <summary>If the database refuses a batch because of one write in it, halves of it find out which.</summary>
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
                    ? new(PersistOutcome.Impossible, write.Write.Version, "It cannot be read.")
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
        ? $"The database refuses it ({state})."
        : $"The database refuses it ({error.GetType().Name}).";

    private static PersistResult Result(QueuedWrite write, Dictionary<string, PersistedRow> rows)
    {
        if (!rows.TryGetValue(write.Id, out var row))
        {
            return new(PersistOutcome.Impossible, write.Version, "There is no such entity.");
        }

        var mayOverwrite = row.Fence <= write.Over || row.Fence > write.Token + WriteBehindQueue.MaxLead;
        return row.Written || row.Fence == write.Token ? new(PersistOutcome.Persisted, row.Version)
            : !mayOverwrite ? new(PersistOutcome.Fenced, row.Version) { Fence = row.Fence }
            : row.Rejection is { } reason ? new(PersistOutcome.Impossible, row.Version, reason)
            : new(PersistOutcome.Again, row.Version);
    }

    /// <summary><c>null</c> if its form is not known: another version of the service may have written it.</summary>
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
