using CachingApi.Sessions;
using Dapper;
using Npgsql;

namespace CachingApi.Users;

/// <summary>The administrator of the configuration in PostgreSQL: SQL only.</summary>
internal sealed class AdminRepository(NpgsqlDataSource postgres, TimeProvider time)
{
    /// <summary>Adds the administrator of the configuration; <c>null</c> if the e-mail address is in use.</summary>
    public async Task<User?> CreateAsync(string email, string emailKey, string passwordHash, CancellationToken cancel)
    {
        var now = time.GetUtcNow();
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<User>(new CommandDefinition(
            $"""
            INSERT INTO users (id, email, email_key, display_name, role, password_hash, configured_as, created_at, updated_at)
            VALUES (@id, @email, @emailKey, 'Administrator', 'admin', @passwordHash, @emailKey, @now, @now)
            ON CONFLICT DO NOTHING
            RETURNING {UserRepository.Columns}
            """,
            new { id = Guid.CreateVersion7(now), email, emailKey, passwordHash, now = now.UtcDateTime },
            cancellationToken: cancel));
    }

    /// <summary>
    /// The account that the configuration has made an administrator by this address, even if its address has changed; else the account that
    /// has the address.
    /// </summary>
    public async Task<(Account Account, bool IsConfigured)?> FindAsync(string emailKey, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<(Guid, string, string, bool)?>(new CommandDefinition(
            """
            SELECT id, role, password_hash, configured_as IS NOT DISTINCT FROM @emailKey AS configured
            FROM users
            WHERE configured_as = @emailKey OR email_key = @emailKey
            ORDER BY configured DESC
            LIMIT 1
            """,
            new { emailKey },
            cancellationToken: cancel)) is var (id, role, passwordHash, isConfigured)
                ? (new() { Id = id, Role = role, PasswordHash = passwordHash }, isConfigured)
                : null;
    }

    /// <summary>Records that a user is the administrator of the configuration.</summary>
    public async Task SetConfiguredAsync(Guid id, string emailKey, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(
            "UPDATE users SET configured_as = @emailKey WHERE id = @id", new { id, emailKey }, cancellationToken: cancel));
    }

    /// <summary>Makes a user the administrator of the configuration, with this password.</summary>
    public async Task<User> PromoteAsync(Guid id, string emailKey, string passwordHash, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleAsync<User>(new CommandDefinition(
            $"""
            UPDATE users
            SET role = 'admin', configured_as = @emailKey, password_hash = @passwordHash, version = version + 1, updated_at = @now
            WHERE id = @id
            RETURNING {UserRepository.Columns}
            """,
            new { id, emailKey, passwordHash, now = time.GetUtcNow().UtcDateTime },
            cancellationToken: cancel));
    }

    /// <summary>Removes the role from accounts that the configuration has made administrators by another address.</summary>
    public async Task<IReadOnlyList<User>> DemoteConfiguredAsync(string emailKey, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var users = await connection.QueryAsync<User>(new CommandDefinition(
            $"""
            UPDATE users
            SET role = 'user', configured_as = NULL, version = version + 1, updated_at = @now
            WHERE configured_as <> @emailKey
            RETURNING {UserRepository.Columns}
            """,
            new { emailKey, now = time.GetUtcNow().UtcDateTime },
            cancellationToken: cancel));
        return users.AsList();
    }
}
