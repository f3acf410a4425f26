using System.Text.Json;
using CachingApi.Caching;
using CachingApi.Sessions;
using Microsoft.Extensions.Options;

namespace CachingApi.Users;

/// <summary>What can be done with users, each by the caching pattern that suits it.</summary>
/// <remarks>
/// A write that has begun is finished, cache and all, even if its caller goes away: a commit whose invalidation was called
/// off would leave the old value in the cache.
/// </remarks>
internal sealed class UserService(
    UserRepository users,
    UserCache cached,
    CacheAside cacheAside,
    WriteThrough writeThrough,
    Invalidation invalidation,
    WriteBehind writeBehind,
    Passwords passwords,
    SessionService sessions,
    IOptions<UserCacheSettings> settings,
    TimeProvider time)
{
    private readonly WriteStrategy _strategy = WriteStrategies.Parse(settings.Value.WriteStrategy)!.Value;

    /// <summary>The time as PostgreSQL keeps it, in microseconds: so a pending value has the same content as the row that it becomes.</summary>
    private DateTime Now
    {
        get
        {
            var now = time.GetUtcNow().UtcDateTime;
            return now.AddTicks(-(now.Ticks % TimeSpan.TicksPerMicrosecond));
        }
    }

    /// <summary>Cache-aside.</summary>
    public ValueTask<CacheResult> FindAsync(Guid id, CancellationToken cancel) =>
        cacheAside.GetAsync(cached.ById(id), stop => LoadAsync(id, stop), cancel);

    /// <summary>Cache-aside, in a namespace that every write drops.</summary>
    public ValueTask<CacheResult> ListAsync(Guid? after, int limit, CancellationToken cancel) =>
        cacheAside.GetAsync(cached.Page(after, limit), stop => LoadPageAsync(after, limit, stop), cancel);

    /// <summary>Invalidation: "there is no such user" may be cached. <c>null</c> where the e-mail address is in use.</summary>
    public async Task<User?> CreateAsync(CreateUser user, CancellationToken cancel)
    {
        var hash = await passwords.HashAsync(user.Password, preferred: false, cancel);
        var id = Guid.CreateVersion7(time.GetUtcNow());
        var created = await users.CreateAsync(
            id, user.Email.Trim(), Email.Key(user.Email), user.DisplayName.Trim(), hash, Now, CancellationToken.None);
        if (created is not null)
        {
            await Task.WhenAll(
                invalidation.InvalidateAsync(cached.ById(id), cached.Users.RevisionOf(created), CancellationToken.None),
                ClearListsAsync(created));
        }

        return created;
    }

    /// <summary>
    /// Write-through, invalidation or write-behind, as asked or configured; a change of the e-mail address is never written behind.
    /// </summary>
    /// <param name="mayChangeEmail">
    /// Whether the e-mail address may become another one; without it, the outcome is <see cref="UserWrite.EmailChange"/>.
    /// </param>
    public Task<(UserWrite Outcome, User? User)> UpdateAsync(
        Guid id, UpdateUser user, long[]? versions, WriteStrategy? strategy, bool mayChangeEmail)
    {
        var change = new UserChange(user.Email.Trim(), Email.Key(user.Email), user.DisplayName.Trim(), Now);
        return (strategy ?? _strategy) switch
        {
            WriteStrategy.WriteBehind => WriteBehindAsync(id, change, versions, mayChangeEmail),
            WriteStrategy.Invalidate => WriteAsync(id, change, versions, mayChangeEmail, (updated, _) => InvalidateAsync(updated)),
            _ => WriteAsync(id, change, versions, mayChangeEmail, PutAsync),
        };
    }

    /// <summary>Invalidation by a negative entry: what is gone stays gone. <c>false</c> where there is no such user.</summary>
    /// <remarks>
    /// The sessions are ended before, so that nothing is deleted while Redis is away and they could not be; and after, for a
    /// login that read the account just before it went.
    /// </remarks>
    public async Task<bool> DeleteAsync(Guid id)
    {
        var began = Moment.Now;
        await sessions.EndAllAsync(id, CancellationToken.None);
        var (_, deleted, turn) = await InTurnAsync(id, turn => users.DeleteAsync(id, turn, CancellationToken.None));
        if (deleted is null)
        {
            return false;
        }

        var revision = new Revision(Math.Max(deleted.Version + 1, turn.Version), turn.Token);
        await Task.WhenAll(
            invalidation.DeletedAsync(cached.ById(id), revision, began, CancellationToken.None),
            invalidation.DropAllAsync(cached.Lists, new Cause($"{id}", revision), CancellationToken.None),
            sessions.EndAllAsync(id, CancellationToken.None));
        return true;
    }

    /// <summary>Commits, then updates the cache.</summary>
    private async Task<(UserWrite Outcome, User? User)> WriteAsync(
        Guid id, UserChange change, long[]? versions, bool mayChangeEmail, Func<User, Moment, Task> updateCache)
    {
        var began = Moment.Now;
        var (outcome, updated, _) = await InTurnAsync(
            id, turn => users.UpdateAsync(id, change, versions, mayChangeEmail, turn, CancellationToken.None));
        if (updated is not null)
        {
            await Task.WhenAll(
                updateCache(updated, began),
                ClearListsAsync(updated),
                writeBehind.SettleAsync($"{id}", updated.Version, CancellationToken.None));
        }

        return (outcome, updated);
    }

    /// <summary>A statement in its turn among all writes of a user; where a later one was faster, in another turn.</summary>
    private async Task<(UserWrite Outcome, User? User, WriteTurn Turn)> InTurnAsync(
        Guid id, Func<WriteTurn, Task<(UserWrite Outcome, User? User, long Fence)>> write)
    {
        var fence = 0L;
        while (true)
        {
            var turn = await writeBehind.TakeTurnAsync($"{id}", fence, CancellationToken.None);
            (var outcome, var user, fence) = await write(turn);
            if (outcome is not UserWrite.Overtaken)
            {
                return (outcome, user, turn);
            }
        }
    }

    /// <summary>Queues the change and shows it; where the queue does not take it, writes it through.</summary>
    private async Task<(UserWrite Outcome, User? User)> WriteBehindAsync(Guid id, UserChange change, long[]? versions, bool mayChangeEmail)
    {
        var began = Moment.Now;
        var found = await FindAsync(id, CancellationToken.None);
        if (!found.Found)
        {
            return (UserWrite.NotFound, null);
        }

        // The body is read before the write is accepted, so that no accepted write fails because of a body that cannot be read. A
        // precondition is compared with the row, because another client may have changed the row and the cache may not show that yet.
        var known = versions is null
            ? JsonSerializer.Deserialize(found.Entry.Body.Span, cached.Users.Json)
            : await LoadAsync(id, CancellationToken.None);
        if (known is null)
        {
            return (UserWrite.NotFound, null);
        }

        if (Email.Key(known.Email) != change.EmailKey)
        {
            // Only the database knows whether the address is taken, and a write that is acknowledged must not be refused later.
            return await WriteAsync(id, change, versions, mayChangeEmail, PutAsync);
        }

        var value = JsonSerializer.SerializeToUtf8Bytes(change, UserJson.Default.UserChange);
        var fence = Math.Max(found.Entry.Revision.Fence, known.Fence);
        var accepted = await writeBehind.AcceptAsync($"{id}", known.Version, fence, versions, value, CancellationToken.None);
        switch (accepted.State)
        {
            case AcceptState.Accepted:
                var user = Changed(known, change, accepted.Version, accepted.Token);
                await PutAsync(user, began);
                return (UserWrite.Accepted, user);
            case AcceptState.VersionMismatch:
                return (UserWrite.VersionMismatch, null);
            default:
                return await WriteAsync(id, change, versions, mayChangeEmail, PutAsync);
        }
    }

    /// <summary>The row, and over it what is pending.</summary>
    public async Task<User?> LoadAsync(Guid id, CancellationToken cancel)
    {
        var pending = await writeBehind.PendingAsync($"{id}", cancel);
        var user = await users.FindAsync(id, cancel);
        return user is null || pending is null || !pending.LiesOver(user.Version, user.Fence)
            ? user
            : Changed(user, JsonSerializer.Deserialize(pending.Value.Span, UserJson.Default.UserChange)!, pending.Version, pending.Token);
    }

    private static User Changed(User user, UserChange change, long version, long token) =>
        user with { Email = change.Email, DisplayName = change.DisplayName, UpdatedAt = change.UpdatedAt, Version = version, Fence = token };

    private Task PutAsync(User user, Moment began) => writeThrough.PutAsync(cached.ById(user.Id), user, began, CancellationToken.None);

    private Task InvalidateAsync(User user) =>
        invalidation.InvalidateAsync(cached.ById(user.Id), cached.Users.RevisionOf(user), CancellationToken.None);

    private Task ClearListsAsync(User user) =>
        invalidation.DropAllAsync(cached.Lists, new Cause($"{user.Id}", cached.Users.RevisionOf(user)), CancellationToken.None);

    public async Task<UserPage?> LoadPageAsync(Guid? after, int limit, CancellationToken cancel)
    {
        var found = await users.ListAsync(after, limit + 1, cancel);
        var page = found.Take(limit).ToArray();
        return new() { Items = page, Next = found.Count > limit ? page[^1].Id : null };
    }
}
