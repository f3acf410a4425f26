using CachingApi.Caching;
using CachingApi.Storage;
using CachingApi.Users;

namespace CachingApi.Lab;

/// <summary>The user that experiments change. Nobody can log in as this user, because no password matches an empty hash.</summary>
internal sealed class LabUser(UserRepository users, UserService service, Cache<User> cache, TimeProvider time)
{
    public static readonly Guid Id = new("01980000-0000-7000-8000-0000000001ab");

    private const string Email = "lab@example.invalid";

    /// <summary>The id of the user, which the first experiment creates.</summary>
    public async Task<Guid> FindAsync(CancellationToken cancel)
    {
        if (await users.CreateAsync(Id, Email, Email, "Lab", passwordHash: "", time.GetDatabaseTime(), cancel) is { } created)
        {
            await cache.InvalidateAsync(Id.ToString(), created, CancellationToken.None);
        }

        return Id;
    }

    /// <summary>Changes the user's name.</summary>
    public async Task<WriteResult<User>> UpdateAsync(WriteStrategy strategy, CancellationToken cancel)
    {
        var change = new UpdateUser { Email = Email, DisplayName = $"Lab {time.GetUtcNow():HH:mm:ss.fff}" };
        return await service.UpdateAsync(await FindAsync(cancel), change, versions: null, strategy, mayChangeEmail: false);
    }
}
