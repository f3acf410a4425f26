using CachingApi.Caching;
using CachingApi.Sessions;
using CachingApi.Storage;

namespace CachingApi.Users;

/// <summary>Adds users.</summary>
internal sealed class Registration(UserRepository users, Cache<User> cache, Passwords passwords, TimeProvider time)
{
    /// <summary>Adds a user, and invalidates a cached "not found". <c>null</c> if the e-mail address is in use.</summary>
    /// <param name="network">The client's network: see <see cref="HashingSlots"/>.</param>
    public async Task<User?> CreateAsync(CreateUser user, string network, CancellationToken cancel)
    {
        var hash = await passwords.HashAsync(user.Password, preferred: false, network, cancel);
        var id = Guid.CreateVersion7(time.GetUtcNow());
        var created = await users.CreateAsync(
            id, user.Email.Trim(), Email.Key(user.Email), user.DisplayName.Trim(), hash, time.GetDatabaseTime(), CancellationToken.None);
        if (created is not null)
        {
            await cache.InvalidateAsync(id.ToString(), created, CancellationToken.None);
        }

        return created;
    }
}
