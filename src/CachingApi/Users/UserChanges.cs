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
        cancel => invalidation.DropAllAsync(cached.Users, cancel),
        cancel => invalidation.DropAllAsync(cached.Lists, cancel));

    private Task VoidAsync(RowChange change, CancellationToken cancel)
    {
        var id = Guid.Parse(change.Id!);
        return change.Deleted
            ? Task.WhenAll(invalidation.DeletedAsync(cached.ById(id), change.Version + 1, cancel), sessions.EndAllAsync(id, cancel))
            : invalidation.InvalidateAsync(cached.ById(id), change.Version, cancel);
    }
}
