using CachingApi.Caching;
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

    /// <summary>It will be done: it is in the queue of write-behind.</summary>
    Accepted,

    /// <summary>It would change the e-mail address, which the caller has not allowed.</summary>
    EmailChange,

    /// <summary>A write with a later turn was there before, or several waited for each other: take another turn.</summary>
    Overtaken,
}

/// <summary>Users in PostgreSQL: SQL only.</summary>
internal sealed class UserRepository(NpgsqlDataSource postgres)
{
    private const string Columns =
        "id, email, display_name AS DisplayName, role, version, created_at AS CreatedAt, updated_at AS UpdatedAt, fence";

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
    /// <param name="versions">The versions that may be changed; <c>null</c> for any. What is pending at this turn counts, not the row under it.</param>
    /// <param name="mayChangeEmail">Whether the e-mail address may become another one; its letter case may always change.</param>
    /// <returns>The user, or why it was not changed; where it was overtaken, the token that the row has.</returns>
    public async Task<(UserWrite Outcome, User? User, long Fence)> UpdateAsync(
        Guid id, UserChange change, long[]? versions, bool mayChangeEmail, WriteTurn turn, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        try
        {
            var user = await connection.QuerySingleOrDefaultAsync<User>(new CommandDefinition(
                $"""
                UPDATE users
                SET email = @email, email_key = @emailKey, display_name = @displayName, updated_at = @updatedAt,
                    version = greatest(version + 1, @version), fence = @token
                WHERE id = @id AND (fence < @token OR fence > @maxFence) AND (email_key = @emailKey OR @mayChangeEmail) AND (
                    @versions::bigint[] IS NULL
                    OR CASE
                        WHEN fence <= @pendingOver OR (version <= @pendingVersion AND fence <> @pendingToken) THEN @pendingVersion
                        ELSE version
                    END = ANY (@versions))
                RETURNING {Columns}
                """,
                new
                {
                    id,
                    change.Email,
                    change.EmailKey,
                    change.DisplayName,
                    change.UpdatedAt,
                    versions,
                    mayChangeEmail,
                    turn.Token,
                    turn.Version,
                    turn.PendingToken,
                    turn.PendingVersion,
                    turn.PendingOver,
                    MaxFence = MaxFence(turn),
                },
                cancellationToken: cancel));
            if (user is not null)
            {
                return (UserWrite.Done, user, turn.Token);
            }

            var (fence, emailKey) = await FenceAsync(connection, id, cancel);
            var outcome =
                fence is null ? UserWrite.NotFound
                : fence >= turn.Token && fence <= MaxFence(turn) ? UserWrite.Overtaken
                : emailKey != change.EmailKey && !mayChangeEmail ? UserWrite.EmailChange
                : UserWrite.VersionMismatch;
            return (outcome, null, fence ?? 0);
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.UniqueViolation)
        {
            return (UserWrite.EmailInUse, null, 0);
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.DeadlockDetected)
        {
            return (UserWrite.Overtaken, null, 0);
        }
    }

    /// <summary>Removes a user.</summary>
    /// <returns>The user as it was, or why it was not removed; where it was overtaken, the token that the row has.</returns>
    public async Task<(UserWrite Outcome, User? User, long Fence)> DeleteAsync(Guid id, WriteTurn turn, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        try
        {
            var user = await connection.QuerySingleOrDefaultAsync<User>(new CommandDefinition(
                $"DELETE FROM users WHERE id = @id AND (fence < @token OR fence > @maxFence) RETURNING {Columns}",
                new { id, turn.Token, MaxFence = MaxFence(turn) },
                cancellationToken: cancel));
            if (user is not null)
            {
                return (UserWrite.Done, user, turn.Token);
            }

            var (fence, _) = await FenceAsync(connection, id, cancel);
            return (fence is null ? UserWrite.NotFound : UserWrite.Overtaken, null, fence ?? 0);
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.DeadlockDetected)
        {
            return (UserWrite.Overtaken, null, 0);
        }
    }

    /// <summary>
    /// Persists what was written behind, one write of each user, in one statement. It leaves out rows that are locked, so that a user
    /// whose row is locked for long holds up no other; and rows that have another e-mail address, because no change of it is written
    /// behind.
    /// </summary>
    /// <returns>
    /// Of each user that exists the row's version and token, after the write or, where <c>Written</c> is <c>false</c>, as it was without;
    /// and whether the row has the e-mail address of the write.
    /// </returns>
    /// <exception cref="PostgresException">The database refuses one of them, and so all of them.</exception>
    public async Task<IReadOnlyDictionary<Guid, (bool Written, long Version, long Fence, bool SameEmail)>> PersistAsync(
        IReadOnlyList<(Guid Id, long Token, long Over, long Version, UserChange Change)> writes, CancellationToken cancel)
    {
        // In one order, whoever persists what, so that hardly ever two wait for each other.
        writes = [.. writes.OrderBy(write => write.Id)];
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var rows = await connection.QueryAsync<(Guid Id, bool Written, long Version, long Fence, bool SameEmail)>(new CommandDefinition(
            """
            WITH batch AS (
                SELECT *
                FROM unnest(@ids, @tokens, @overs, @versions, @emails, @emailKeys, @names, @times)
                    AS batch (id, token, over, version, email, email_key, display_name, updated_at)
            ), unlocked AS (
                SELECT users.id
                FROM batch JOIN users USING (id)
                FOR UPDATE OF users SKIP LOCKED
            ), written AS (
                UPDATE users
                SET email = batch.email, display_name = batch.display_name, updated_at = batch.updated_at,
                    version = greatest(users.version + 1, batch.version), fence = batch.token
                FROM batch JOIN unlocked USING (id)
                WHERE users.id = batch.id AND users.email_key = batch.email_key
                    AND (users.fence <= batch.over OR users.fence > batch.token + @maxLead)
                RETURNING users.id, users.version, users.fence
            )
            SELECT id, written.id IS NOT NULL, coalesce(written.version, users.version), coalesce(written.fence, users.fence),
                users.email_key = batch.email_key
            FROM batch JOIN users USING (id) LEFT JOIN written USING (id)
            """,
            new
            {
                ids = writes.Select(write => write.Id).ToArray(),
                tokens = writes.Select(write => write.Token).ToArray(),
                overs = writes.Select(write => write.Over).ToArray(),
                versions = writes.Select(write => write.Version).ToArray(),
                emails = writes.Select(write => write.Change.Email).ToArray(),
                emailKeys = writes.Select(write => write.Change.EmailKey).ToArray(),
                names = writes.Select(write => write.Change.DisplayName).ToArray(),
                times = writes.Select(write => write.Change.UpdatedAt).ToArray(),
                maxLead = WriteBehindQueue.MaxLead,
            },
            cancellationToken: cancel));
        return rows.ToDictionary(row => row.Id, row => (row.Written, row.Version, row.Fence, row.SameEmail));
    }

    /// <summary>
    /// Gives a user a version later than that of a write that is given up, unless a later write has. The write's token becomes the fence,
    /// so that no consumer that still holds the write persists it. <c>null</c> if there is no such user.
    /// </summary>
    public async Task<long?> PassAsync(Guid id, long version, long token, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<long?>(new CommandDefinition(
            """
            UPDATE users
            SET version = greatest(version, @version + 1),
                fence = CASE WHEN fence > @token + @maxLead THEN fence ELSE greatest(fence, @token) END
            WHERE id = @id
            RETURNING version
            """,
            new { id, version, token, maxLead = WriteBehindQueue.MaxLead },
            cancellationToken: cancel));
    }

    /// <summary>Adds the administrator of the configuration; <c>null</c> if the e-mail address is in use.</summary>
    public async Task<User?> CreateAdminAsync(
        Guid id, string email, string emailKey, string passwordHash, DateTime now, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<User>(new CommandDefinition(
            $"""
            INSERT INTO users (id, email, email_key, display_name, role, password_hash, configured_as, created_at, updated_at)
            VALUES (@id, @email, @emailKey, 'Administrator', 'admin', @passwordHash, @emailKey, @now, @now)
            ON CONFLICT (email_key) DO NOTHING
            RETURNING {Columns}
            """,
            new { id, email, emailKey, passwordHash, now },
            cancellationToken: cancel));
    }

    /// <summary>The user whom the configuration has made an administrator by this address; the user may have another one now.</summary>
    public async Task<Guid?> FindConfiguredAsync(string emailKey, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<Guid?>(new CommandDefinition(
            "SELECT id FROM users WHERE configured_as = @emailKey", new { emailKey }, cancellationToken: cancel));
    }

    /// <summary>Notes that a user is the administrator of the configuration.</summary>
    public async Task SetConfiguredAsync(Guid id, string emailKey, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(
            "UPDATE users SET configured_as = @emailKey WHERE id = @id", new { id, emailKey }, cancellationToken: cancel));
    }

    /// <summary>Makes a user the administrator of the configuration, with this password.</summary>
    public async Task<User> PromoteAsync(Guid id, string emailKey, string passwordHash, DateTime now, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleAsync<User>(new CommandDefinition(
            $"""
            UPDATE users
            SET role = 'admin', configured_as = @emailKey, password_hash = @passwordHash, version = version + 1, updated_at = @now
            WHERE id = @id
            RETURNING {Columns}
            """,
            new { id, emailKey, passwordHash, now },
            cancellationToken: cancel));
    }

    /// <summary>Takes the role from users whom the configuration has made administrators by another address than this one.</summary>
    public async Task<IReadOnlyList<User>> DemoteConfiguredAsync(string emailKey, DateTime now, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var users = await connection.QueryAsync<User>(new CommandDefinition(
            $"""
            UPDATE users
            SET role = 'user', configured_as = NULL, version = version + 1, updated_at = @now
            WHERE configured_as <> @emailKey
            RETURNING {Columns}
            """,
            new { emailKey, now },
            cancellationToken: cancel));
        return users.AsList();
    }

    /// <summary>A fence beyond this one orders nothing: see <see cref="WriteBehindQueue.MaxLead"/>.</summary>
    private static long MaxFence(WriteTurn turn) => turn.Token + WriteBehindQueue.MaxLead;

    private static Task<(long? Fence, string? EmailKey)> FenceAsync(NpgsqlConnection connection, Guid id, CancellationToken cancel) =>
        connection.QuerySingleOrDefaultAsync<(long?, string?)>(new CommandDefinition(
            "SELECT fence, email_key FROM users WHERE id = @id", new { id }, cancellationToken: cancel));
}
