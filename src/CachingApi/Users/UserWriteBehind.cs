using CachingApi.Caching;

namespace CachingApi.Users;

/// <summary>Write-behind of users: applies and persists changes.</summary>
internal sealed class UserWriteBehind(UserRepository users) : IWriteBehind<User, UserChange>
{
    public User Apply(User current, UserChange change, Revision revision) => current with
    {
        Email = change.Email,
        DisplayName = change.DisplayName,
        UpdatedAt = change.UpdatedAt,
        Version = revision.Version,
        Fence = revision.Fence,
    };

    /// <summary>Only the database can check whether an address is in use, and an acknowledged write must not be refused later.</summary>
    public bool CanDefer(User current, UserChange change) => Sessions.Email.Key(current.Email) == change.EmailKey;

    public Task<WriteResult<User>> CommitAsync(
        string id, UserChange change, IReadOnlyCollection<long>? versions, WriteFence fence, CancellationToken cancel) =>
        users.UpdateAsync(Guid.Parse(id), change, versions, fence, cancel);

    public Task<IReadOnlyCollection<PersistedRow>> PersistAsync(
        IReadOnlyList<DeferredWrite<UserChange>> writes, CancellationToken cancel) =>
        users.PersistAsync(writes, cancel);

    public Task<Revision?> BumpVersionAsync(string id, Revision write, CancellationToken cancel) =>
        users.BumpVersionAsync(Guid.Parse(id), write, cancel);
}
