using System.Text.Json;
using CachingApi.Caching;
using CachingApi.Storage;
using Microsoft.Extensions.Options;
using Npgsql;

namespace CachingApi.Users;

/// <summary>What write-behind means for users: how their changes are persisted, and what is cached of them.</summary>
internal sealed class UserWriteBehind(
    UserRepository users, UserService service, UserCache cached, Invalidation invalidation, IOptions<UserCacheSettings> settings)
{
    private readonly string? _requiredBy = settings.Value.WriteStrategy is WriteStrategies.WriteBehind ? "Cache:Users:WriteStrategy" : null;

    public WriteBehindTarget Target => new(_requiredBy, PersistAsync, RejectAsync, VoidAsync, RetryAsync);

    private async Task<IReadOnlyList<WriteResult>> PersistAsync(IReadOnlyList<QueuedWrite> writes, CancellationToken cancel)
    {
        var results = await PersistOrSplitAsync([.. writes.Select(write => (write, Read(write)))], cancel);
        if (results.Any(result => result.Outcome is WriteOutcome.Persisted))
        {
            var causes = writes.Zip(results).Where(done => done.Second.Outcome is WriteOutcome.Persisted)
                .Select(done => new Cause(done.First.Id, new(done.Second.Version, done.First.Token)));
            await Task.WhenAll(causes.Select(cause => invalidation.DropAllAsync(cached.Lists, cause, cancel)));
        }

        // The writer's own entry has this version and stays. Without it: 1. a write is accepted; 2. its writer dies before it updates the
        // cache; 3. the row has the write, and the cache would keep the value before it.
        await Task.WhenAll(writes.Zip(results)
            .Where(done => done.Second.Outcome is WriteOutcome.Persisted)
            .Select(done => invalidation.InvalidateAsync(cached.ById(Guid.Parse(done.First.Id)), new(done.Second.Version, done.First.Token), cancel)));
        return results;
    }

    /// <summary>Where the database refuses a batch for one write in it, halves of it find out for which.</summary>
    private async Task<WriteResult[]> PersistOrSplitAsync((QueuedWrite Write, UserChange? Change)[] writes, CancellationToken cancel)
    {
        try
        {
            var rows = await users.PersistAsync(
                [.. writes.Where(write => write.Change is not null).Select(write => (Guid.Parse(write.Write.Id), write.Write.Token, write.Write.Over, write.Write.Version, write.Change!))],
                cancel);
            return [.. writes.Select(write => write.Change is null ? new(WriteOutcome.Impossible, write.Write.Version, "It cannot be read.") : Result(write.Write, rows))];
        }
        catch (PostgresException error) when (!TransientSqlStates.Includes(error))
        {
            if (writes.Length == 1)
            {
                return [new(WriteOutcome.Refused, 0, $"The database refuses it ({error.SqlState}).")];
            }

            var half = writes.Length / 2;
            return [.. await PersistOrSplitAsync(writes[..half], cancel), .. await PersistOrSplitAsync(writes[half..], cancel)];
        }
    }

    private static WriteResult Result(
        QueuedWrite write, IReadOnlyDictionary<Guid, (bool Written, long Version, long Fence, bool SameEmail)> rows) =>
        !rows.TryGetValue(Guid.Parse(write.Id), out var row) ? new(WriteOutcome.Impossible, write.Version, "There is no such user.")
        : row.Written || row.Fence == write.Token ? new(WriteOutcome.Persisted, row.Version)
        : !row.SameEmail && (row.Fence <= write.Over || row.Fence > write.Token + WriteBehindQueue.MaxLead)
            ? new(WriteOutcome.Impossible, row.Version, "The e-mail address is another one now.")
        : row.Fence > write.Over && row.Fence <= write.Token + WriteBehindQueue.MaxLead ? new(WriteOutcome.Fenced, row.Version) { Fence = row.Fence }
        : new(WriteOutcome.Again, row.Version);

    private async Task<long> RejectAsync(QueuedWrite write, CancellationToken cancel)
    {
        try
        {
            return await users.PassAsync(Guid.Parse(write.Id), write.Version, write.Token, cancel) ?? write.Version + 1;
        }
        catch (PostgresException error) when (!TransientSqlStates.Includes(error))
        {
            // The row refuses every change: it keeps its version, and readers are shown it again when the tombstone has expired.
            return write.Version + 1;
        }
    }

    private async Task VoidAsync(QueuedWrite write, long version, CancellationToken cancel)
    {
        var id = Guid.Parse(write.Id);
        var user = await users.FindAsync(id, cancel);
        await (user is null
            ? invalidation.DeletedAsync(cached.ById(id), new(version, write.Token), Moment.Now, cancel)
            : invalidation.InvalidateAsync(cached.ById(id), new(version, user.Fence), cancel));
    }

    private async Task<bool> RetryAsync(QueuedWrite write, CancellationToken cancel)
    {
        if (Read(write) is not { } change)
        {
            return false;
        }

        var (outcome, _) = await service.UpdateAsync(
            Guid.Parse(write.Id),
            new() { Email = change.Email, DisplayName = change.DisplayName },
            versions: null,
            WriteStrategy.WriteBehind,
            mayChangeEmail: false); // the user has another one since: to bring the old one back is no retry
        return outcome is UserWrite.Accepted or UserWrite.Done;
    }

    /// <summary><c>null</c> where it is not of a form that is known: another version of this service may have written it.</summary>
    private static UserChange? Read(QueuedWrite write)
    {
        try
        {
            return Guid.TryParse(write.Id, out _) ? JsonSerializer.Deserialize(write.Value.Span, UserJson.Default.UserChange) : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }
}
