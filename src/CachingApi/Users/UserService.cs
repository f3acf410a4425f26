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
    /// Write-through, invalidation or write-behind, as asked or configured; a change of the e-mail address is never written behind.
    /// </summary>
    /// <param name="mayChangeEmail">
    /// Whether the e-mail address may become another one; without it, the outcome is <see cref="WriteOutcome.Rejected"/>.
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
    /// Invalidation by a negative entry, so that no slow reader puts the user back. <c>false</c> if there is no such user.
    /// </summary>
    /// <remarks>
    /// The sessions are ended before, so that nothing is deleted while Redis is away and they could not be; and after, for a
    /// login that read the account just before it went.
    /// </remarks>
    public async Task<bool> DeleteAsync(Guid id)
    {
        await sessions.EndAllAsync(id, CancellationToken.None);
        var deleted = await cache.DeleteAsync(id.ToString(), (fence, stop) => users.DeleteAsync(id, fence, stop), CancellationToken.None);
        await sessions.ForgetAsync(id, CancellationToken.None);
        return deleted.Outcome is WriteOutcome.Committed;
    }
}
