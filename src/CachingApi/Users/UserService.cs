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
    Passwords passwords,
    SessionService sessions,
    IOptions<UserCacheSettings> settings,
    TimeProvider time)
{
    private readonly WriteStrategy _strategy = WriteStrategies.Parse(settings.Value.WriteStrategy)!.Value;

    private DateTime Now => time.GetUtcNow().UtcDateTime;

    /// <summary>Cache-aside.</summary>
    public ValueTask<CacheResult> FindAsync(Guid id, CancellationToken cancel) =>
        cacheAside.GetAsync(cached.ById(id), stop => users.FindAsync(id, stop), cancel);

    /// <summary>Cache-aside, in a namespace that every write drops.</summary>
    public ValueTask<CacheResult> ListAsync(Guid? after, int limit, CancellationToken cancel) =>
        cacheAside.GetAsync(cached.Page(after, limit), stop => LoadPageAsync(after, limit, stop), cancel);

    /// <summary>Invalidation: "there is no such user" may be cached. <c>null</c> where the e-mail address is in use.</summary>
    public async Task<User?> CreateAsync(CreateUser user, CancellationToken cancel)
    {
        var hash = await passwords.HashAsync(user.Password, cancel);
        var id = Guid.CreateVersion7(time.GetUtcNow());
        var created = await users.CreateAsync(
            id, user.Email.Trim(), Email.Key(user.Email), user.DisplayName.Trim(), hash, Now, CancellationToken.None);
        if (created is not null)
        {
            await Task.WhenAll(
                invalidation.InvalidateAsync(cached.ById(id), created.Version, CancellationToken.None),
                invalidation.DropAllAsync(cached.Lists, CancellationToken.None));
        }

        return created;
    }

    /// <summary>Write-through or invalidation, as asked or configured.</summary>
    public async Task<(UserWrite Outcome, User? User)> UpdateAsync(Guid id, UpdateUser user, long[]? versions, WriteStrategy? strategy)
    {
        var (outcome, updated) = await users.UpdateAsync(
            id, user.Email.Trim(), Email.Key(user.Email), user.DisplayName.Trim(), versions, Now, CancellationToken.None);
        if (updated is not null)
        {
            await Task.WhenAll(
                (strategy ?? _strategy) is WriteStrategy.WriteThrough
                    ? writeThrough.PutAsync(cached.ById(id), updated, CancellationToken.None)
                    : invalidation.InvalidateAsync(cached.ById(id), updated.Version, CancellationToken.None),
                invalidation.DropAllAsync(cached.Lists, CancellationToken.None));
        }

        return (outcome, updated);
    }

    /// <summary>Invalidation by a negative entry: what is gone stays gone. <c>false</c> where there is no such user.</summary>
    /// <remarks>
    /// The sessions are ended before, so that nothing is deleted while Redis is away and they could not be; and after, for a
    /// login that read the account just before it went.
    /// </remarks>
    public async Task<bool> DeleteAsync(Guid id)
    {
        await sessions.EndAllAsync(id, CancellationToken.None);
        if (await users.DeleteAsync(id, CancellationToken.None) is not { } version)
        {
            return false;
        }

        await Task.WhenAll(
            invalidation.DeletedAsync(cached.ById(id), version + 1, CancellationToken.None),
            invalidation.DropAllAsync(cached.Lists, CancellationToken.None),
            sessions.EndAllAsync(id, CancellationToken.None));
        return true;
    }

    private async Task<UserPage?> LoadPageAsync(Guid? after, int limit, CancellationToken cancel)
    {
        var found = await users.ListAsync(after, limit + 1, cancel);
        var page = found.Take(limit).ToArray();
        return new() { Items = page, Next = found.Count > limit ? page[^1].Id : null };
    }
}
