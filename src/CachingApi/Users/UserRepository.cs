using Dapper;
using Npgsql;

namespace CachingApi.Users;

/// <summary>Why a write did not take place, if it did not.</summary>
internal enum UserWrite
{
    Done,
    NotFound,
    EmailInUse,
    VersionMismatch,
}

/// <summary>Users in PostgreSQL: SQL only.</summary>
internal sealed class UserRepository(NpgsqlDataSource postgres)
{
    private const string Columns =
        "id, email, display_name AS DisplayName, role, version, created_at AS CreatedAt, updated_at AS UpdatedAt";

    public async Task<User?> FindAsync(Guid id, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<User>(new CommandDefinition(
            $"""
            SELECT {Columns}
            FROM users
            WHERE id = @id
            """,
            new { id },
            cancellationToken: cancel));
    }

    /// <summary>Up to <paramref name="limit"/> users, newest first, from the one after <paramref name="after"/> on (keyset paging).</summary>
    public async Task<IReadOnlyList<User>> ListAsync(Guid? after, int limit, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var users = await connection.QueryAsync<User>(new CommandDefinition(
            $"""
            SELECT {Columns}
            FROM users
            WHERE id < @after
            ORDER BY id DESC
            LIMIT @limit
            """,
            new { after = after ?? Guid.AllBitsSet, limit },
            cancellationToken: cancel));
        return users.AsList();
    }

    /// <summary>The ids of users, newest first: of each <paramref name="every"/> the last, <paramref name="count"/> in all.</summary>
    public async Task<IReadOnlyList<Guid>> NewestAsync(int count, int every, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var ids = await connection.QueryAsync<Guid>(new CommandDefinition(
            """
            SELECT id
            FROM (SELECT id, row_number() OVER (ORDER BY id DESC) AS place FROM users ORDER BY id DESC LIMIT @count * @every) newest
            WHERE place % @every = 0
            ORDER BY place
            """,
            new { count, every },
            cancellationToken: cancel));
        return ids.AsList();
    }

    /// <summary>Adds a user; <c>null</c> where the e-mail address is in use.</summary>
    public async Task<User?> CreateAsync(
        Guid id, string email, string emailKey, string displayName, string passwordHash, DateTime now, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<User>(new CommandDefinition(
            $"""
            INSERT INTO users (id, email, email_key, display_name, password_hash, created_at, updated_at)
            VALUES (@id, @email, @emailKey, @displayName, @passwordHash, @now, @now)
            ON CONFLICT (email_key) DO NOTHING
            RETURNING {Columns}
            """,
            new { id, email, emailKey, displayName, passwordHash, now },
            cancellationToken: cancel));
    }

    /// <summary>Changes a user.</summary>
    /// <param name="versions">The versions that may be changed; <c>null</c> for any.</param>
    public async Task<(UserWrite Outcome, User? User)> UpdateAsync(
        Guid id, string email, string emailKey, string displayName, long[]? versions, DateTime now, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        try
        {
            var user = await connection.QuerySingleOrDefaultAsync<User>(new CommandDefinition(
                $"""
                UPDATE users
                SET email = @email, email_key = @emailKey, display_name = @displayName, version = version + 1, updated_at = @now
                WHERE id = @id AND (@versions::bigint[] IS NULL OR version = ANY (@versions))
                RETURNING {Columns}
                """,
                new { id, email, emailKey, displayName, versions, now },
                cancellationToken: cancel));
            return user is null ? (await WhyNotAsync(connection, id, cancel), null) : (UserWrite.Done, user);
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.UniqueViolation)
        {
            return (UserWrite.EmailInUse, null);
        }
    }

    /// <summary>Removes a user and returns the version that it had; <c>null</c> where there is no such user.</summary>
    public async Task<long?> DeleteAsync(Guid id, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<long?>(new CommandDefinition(
            "DELETE FROM users WHERE id = @id RETURNING version", new { id }, cancellationToken: cancel));
    }

    /// <summary>Makes a user an administrator with this password.</summary>
    public async Task<User> PromoteAsync(string emailKey, string passwordHash, DateTime now, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleAsync<User>(new CommandDefinition(
            $"""
            UPDATE users
            SET role = 'admin', password_hash = @passwordHash, version = version + 1, updated_at = @now
            WHERE email_key = @emailKey
            RETURNING {Columns}
            """,
            new { emailKey, passwordHash, now },
            cancellationToken: cancel));
    }

    private static async Task<UserWrite> WhyNotAsync(NpgsqlConnection connection, Guid id, CancellationToken cancel)
    {
        var exists = await connection.ExecuteScalarAsync<bool>(new CommandDefinition(
            "SELECT EXISTS (SELECT FROM users WHERE id = @id)", new { id }, cancellationToken: cancel));
        return exists ? UserWrite.VersionMismatch : UserWrite.NotFound;
    }
}
