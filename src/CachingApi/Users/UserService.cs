using CachingApi.Caching;
using CachingApi.Sessions;
using CachingApi.Storage;
using Microsoft.Extensions.Options;

namespace CachingApi.Users;

/// <summary>The operations on users, each by the caching pattern that suits it.</summary>
internal sealed class UserService(
    UserRepository users,
    Cache<User> cache,
    Cache<UserPage> lists,
    SessionService sessions,
    IOptions<UserCacheOptions> options,
    TimeProvider time)
{
    private readonly WriteStrategy _strategy = WriteStrategies.Parse(options.Value.WriteStrategy)!.Value;

    /// <summary>Cache-aside.</summary>
    public ValueTask<CacheResult<User>> FindAsync(Guid id, CancellationToken cancel) => cache.GetAsync(id.ToString(), cancel);

    /// <summary>Cache-aside, in a cache that every write of a user clears.</summary>
    public ValueTask<CacheResult<UserPage>> ListAsync(Guid? after, int limit, CancellationToken cancel) =>
        lists.GetAsync(new PageKey(after, limit).ToString(), cancel);

    /// <summary>
    /// Write-through, invalidation or write-behind, as requested or configured. A change of the e-mail address is never queued.
    /// </summary>
    /// <param name="mayChangeEmail">
    /// Whether the e-mail address may change; if not, the outcome of such a change is <see cref="WriteOutcome.Rejected"/>.
    /// </param>
    public Task<WriteResult<User>> UpdateAsync(Guid id, UpdateUser user, long[]? versions, WriteStrategy? strategy, bool mayChangeEmail)
    {
        var change = new UserChange(user.Email.Trim(), Email.Key(user.Email), user.DisplayName.Trim(), time.GetDatabaseTime())
        {
            MayChangeEmail = mayChangeEmail,
        };
        return cache.WriteAsync(id.ToString(), change, versions, strategy ?? _strategy, CancellationToken.None);
    }

    /// <summary>
    /// Invalidation by a negative entry, so that no slow reader puts the user back. <c>false</c> if the user does not exist.
    /// </summary>
    /// <remarks>
    /// The sessions are ended before the deletion, so that the user is not deleted if Redis is away and the sessions cannot be ended. They
    /// are ended again after it, because a login may have read the account just before the deletion.
    /// </remarks>
    public async Task<bool> DeleteAsync(Guid id)
    {
        await sessions.EndAllAsync(id, CancellationToken.None);
        var deleted = await cache.DeleteAsync(id.ToString(), (fence, stop) => users.DeleteAsync(id, fence, stop), CancellationToken.None);
        await sessions.ForgetAsync(id, CancellationToken.None);
        return deleted.Outcome is WriteOutcome.Committed;
    }
}
