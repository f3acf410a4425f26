using CachingApi.Caching;
using CachingApi.Sessions;
using CachingApi.Storage;

namespace CachingApi.Users;

/// <summary>What a change of the table <c>users</c> voids, whoever made it.</summary>
internal sealed class UserChanges(UserCache cached, Invalidation invalidation, SessionService sessions)
{
    public FollowedTable Table => new(
        "users",
        VoidAsync,
        cancel => Task.WhenAll(
            invalidation.DropAllAsync(cached.Users, cause: null, cancel), invalidation.DropAllAsync(cached.Lists, cause: null, cancel)),
        (changes, cancel) => invalidation.DropUnlessCausedAsync(cached.Lists, [.. changes.Select(change => new Cause(change.Id!, Revision(change)))], cancel));

    private Task VoidAsync(RowChange change, CancellationToken cancel)
    {
        var (key, revision) = (cached.ById(Guid.Parse(change.Id!)), Revision(change));
        return change.Deleted
            ? Task.WhenAll(
                invalidation.DeletedAsync(key, revision, Moment.Now, cancel), sessions.EndAllAsync(Guid.Parse(change.Id!), cancel))
            : invalidation.InvalidateAsync(key, revision, cancel);
    }

    /// <summary>A deletion comes after the last version of the row.</summary>
    private static Revision Revision(RowChange change) => new(change.Deleted ? change.Version + 1 : change.Version, change.Fence);
}
