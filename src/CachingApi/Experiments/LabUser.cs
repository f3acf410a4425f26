using CachingApi.Caching;
using CachingApi.Storage;
using CachingApi.Users;
using Npgsql;

namespace CachingApi.Experiments;

/// <summary>The user that experiments change. No login is possible as this user, because no password matches an empty hash.</summary>
internal sealed class LabUser(UserRepository users, UserService service, Cache<User> cache, TimeProvider time)
{
    public static readonly Guid Id = new("01980000-0000-7000-8000-0000000001ab");

    private volatile string? _email;

    /// <summary>The id of the user, which the first experiment creates.</summary>
    public async Task<Guid> FindAsync(CancellationToken cancel)
    {
        await EmailAsync(cancel);
        return Id;
    }

    /// <summary>Changes the user's name.</summary>
    public async Task<WriteResult<User>> UpdateAsync(WriteStrategy strategy, CancellationToken cancel)
    {
        var result = await ChangeAsync(strategy, cancel);
        if (result.Outcome is not (WriteOutcome.NotFound or WriteOutcome.Rejected))
        {
            return result;
        }

        _email = null; // an administrator has deleted the user, or has changed the address
        return await ChangeAsync(strategy, cancel);
    }

    private async Task<WriteResult<User>> ChangeAsync(WriteStrategy strategy, CancellationToken cancel)
    {
        var change = new UpdateUser { Email = await EmailAsync(cancel), DisplayName = $"Lab {time.GetUtcNow():HH:mm:ss.fff}" };
        return await service.UpdateAsync(Id, change, versions: null, strategy, mayChangeEmail: false);
    }

    /// <remarks>
    /// It is read once, so that later experiments need no database. The address cannot be guessed, so no other user has it.
    /// </remarks>
    private async Task<string> EmailAsync(CancellationToken cancel)
    {
        if (_email is { } known)
        {
            return known;
        }

        if (await users.FindAsync(Id, cancel) is { } found)
        {
            return _email = found.Email;
        }

        var email = $"lab-{Guid.NewGuid():N}@example.invalid";
        try
        {
            var created = await users.CreateAsync(Id, email, email, "Lab", passwordHash: "", time.GetDatabaseTime(), cancel);
            await cache.InvalidateAsync(Id.ToString(), created!, CancellationToken.None);
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.UniqueViolation)
        {
            // Another experiment has created the user at the same time.
            email = (await users.FindAsync(Id, cancel))!.Email;
        }

        return _email = email;
    }
}
