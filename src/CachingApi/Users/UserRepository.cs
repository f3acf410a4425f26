using CachingApi.Caching;
using Dapper;
using Npgsql;

namespace CachingApi.Users;

/// <summary>Users in PostgreSQL: SQL only.</summary>
internal sealed class UserRepository(NpgsqlDataSource postgres)
{
    internal const string Columns =
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

    /// <summary>
    /// Up to <paramref name="limit"/> users, newest first, from the one after <paramref name="after"/> on (keyset paging).
    /// </summary>
    /// <returns>
    /// The users, and the number of transactions that had ended in the snapshot of the query. It grows with each commit, so it orders the
    /// states of lists.
    /// </returns>
    public async Task<(IReadOnlyList<User> Users, long Snapshot)> ListAsync(Guid? after, int limit, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        await using var reader = await connection.ExecuteReaderAsync(new CommandDefinition(
            $"""
            SELECT ended, page.*
            FROM (SELECT pg_snapshot_xmax(taken)::text::bigint - (SELECT count(*) FROM pg_snapshot_xip(taken)) AS ended
                  FROM pg_current_snapshot() AS taken) AS snapshot
            LEFT JOIN (SELECT {Columns} FROM users WHERE id < @after ORDER BY id DESC LIMIT @limit) AS page ON true
            ORDER BY id DESC
            """,
            new { after = after ?? Guid.AllBitsSet, limit },
            cancellationToken: cancel));
        var (read, users, snapshot) = (reader.GetRowParser<User>(startIndex: 1), new List<User>(), 0L);
        while (await reader.ReadAsync(cancel))
        {
            snapshot = reader.GetInt64(0);
            if (!reader.IsDBNull(1))
            {
                users.Add(read(reader));
            }
        }

        return (users, snapshot);
    }

    /// <summary>A page of users.</summary>
    public async Task<UserPage?> PageAsync(Guid? after, int limit, CancellationToken cancel)
    {
        var (found, snapshot) = await ListAsync(after, limit + 1, cancel);
        var page = found.Take(limit).ToArray();
        return new() { Items = page, Next = found.Count > limit ? page[^1].Id : null, Snapshot = snapshot };
    }

    /// <summary>The ids of users, newest first: the last of each <paramref name="every"/> users, <paramref name="count"/> in all.</summary>
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

    /// <summary>Adds a user; <c>null</c> if the e-mail address is in use.</summary>
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
    /// <param name="versions">
    /// The versions that may be changed; <c>null</c> for any. The version of a pending write counts, not the row's.
    /// </param>
    /// <returns>
    /// The user, or why it was not changed: <see cref="WriteOutcome.Conflict"/> if the e-mail address is in use,
    /// <see cref="WriteOutcome.Rejected"/> if it would become another one without <see cref="UserChange.MayChangeEmail"/>.
    /// </returns>
    public async Task<WriteResult<User>> UpdateAsync(
        Guid id, UserChange change, IReadOnlyCollection<long>? versions, WriteFence fence, CancellationToken cancel)
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
                    versions = versions?.ToArray(),
                    change.MayChangeEmail,
                    fence.Token,
                    fence.Version,
                    fence.PendingToken,
                    fence.PendingVersion,
                    fence.PendingOver,
                    fence.MaxFence,
                },
                cancellationToken: cancel));
            if (user is not null)
            {
                return user;
            }

            return await RefusalOfAsync(connection, id, change, fence, cancel);
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.UniqueViolation)
        {
            return WriteOutcome.Conflict;
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.DeadlockDetected)
        {
            return WriteOutcome.Superseded;
        }
    }

    private static async Task<WriteResult<User>> RefusalOfAsync(
        NpgsqlConnection connection, Guid id, UserChange change, WriteFence fence, CancellationToken cancel)
    {
        var (rowFence, emailKey) = await FenceAsync(connection, id, cancel);
        return rowFence is null ? WriteOutcome.NotFound
            : rowFence >= fence.Token && rowFence <= fence.MaxFence
                ? new WriteResult<User>(WriteOutcome.Superseded, Fence: rowFence.Value)
            : emailKey != change.EmailKey && !change.MayChangeEmail ? WriteOutcome.Rejected
            : WriteOutcome.VersionMismatch;
    }

    /// <summary>Removes a user.</summary>
    /// <returns>The user as it was, or why it was not removed.</returns>
    public async Task<WriteResult<User>> DeleteAsync(Guid id, WriteFence fence, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        try
        {
            var user = await connection.QuerySingleOrDefaultAsync<User>(new CommandDefinition(
                $"DELETE FROM users WHERE id = @id AND (fence < @token OR fence > @maxFence) RETURNING {Columns}",
                new { id, fence.Token, fence.MaxFence },
                cancellationToken: cancel));
            if (user is not null)
            {
                return user;
            }

            var (rowFence, _) = await FenceAsync(connection, id, cancel);
            return rowFence is { } later ? new WriteResult<User>(WriteOutcome.Superseded, Fence: later) : WriteOutcome.NotFound;
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.DeadlockDetected)
        {
            return WriteOutcome.Superseded;
        }
    }

    /// <summary>
    /// Persists queued writes, one per user, in one statement. It leaves out locked rows, so that a row that is locked for long does not
    /// delay other users; and rows that have another e-mail address, because changes of the address are never queued.
    /// </summary>
    /// <exception cref="PostgresException">The database refuses one of the writes, and therefore the whole statement.</exception>
    public async Task<IReadOnlyCollection<PersistedRow>> PersistAsync(
        IReadOnlyList<DeferredWrite<UserChange>> writes, CancellationToken cancel)
    {
        // In the same order in every process, so that two batches rarely wait for each other.
        var batch = writes.Select(write => (Id: Guid.Parse(write.Id), Write: write)).OrderBy(write => write.Id).ToArray();
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var rows = await connection.QueryAsync<(Guid Id, bool Written, long Version, long Fence, bool SameEmail)>(new CommandDefinition(
            """
            WITH batch AS (
                SELECT *
                FROM unnest(@ids, @tokens, @overs, @maxFences, @versions, @emails, @emailKeys, @names, @times)
                    AS batch (id, token, over, max_fence, version, email, email_key, display_name, updated_at)
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
                    AND (users.fence <= batch.over OR users.fence > batch.max_fence)
                RETURNING users.id, users.version, users.fence
            )
            SELECT id, written.id IS NOT NULL, coalesce(written.version, users.version), coalesce(written.fence, users.fence),
                users.email_key = batch.email_key
            FROM batch JOIN users USING (id) LEFT JOIN written USING (id)
            """,
            new
            {
                ids = batch.Select(write => write.Id).ToArray(),
                tokens = batch.Select(write => write.Write.Token).ToArray(),
                overs = batch.Select(write => write.Write.Over).ToArray(),
                maxFences = batch.Select(write => write.Write.MaxFence).ToArray(),
                versions = batch.Select(write => write.Write.Version).ToArray(),
                emails = batch.Select(write => write.Write.Change.Email).ToArray(),
                emailKeys = batch.Select(write => write.Write.Change.EmailKey).ToArray(),
                names = batch.Select(write => write.Write.Change.DisplayName).ToArray(),
                times = batch.Select(write => write.Write.Change.UpdatedAt).ToArray(),
            },
            cancellationToken: cancel));
        return
        [
            .. rows.Select(row => new PersistedRow(
                row.Id.ToString(), row.Written, row.Version, row.Fence, row.SameEmail ? null : "The user's e-mail address has changed.")),
        ];
    }

    /// <summary>
    /// Gives a user a version later than that of a write that is given up, unless a later write has already done so. The write's token
    /// becomes the fence, so that no consumer that still holds the write persists it.
    /// </summary>
    /// <returns>The row's revision after that; <c>null</c> if the user does not exist.</returns>
    public async Task<Revision?> BumpVersionAsync(Guid id, Revision write, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var row = await connection.QuerySingleOrDefaultAsync<(long Version, long Fence)?>(new CommandDefinition(
            """
            UPDATE users
            SET version = greatest(version, @version + 1),
                fence = CASE WHEN fence > @maxFence THEN fence ELSE greatest(fence, @fence) END
            WHERE id = @id
            RETURNING version, fence
            """,
            new { id, write.Version, write.Fence, MaxFence = WriteFence.MaxFenceAfter(write.Fence) },
            cancellationToken: cancel));
        return row is var (version, fence) ? new(version, fence) : null;
    }

    private static Task<(long? Fence, string? EmailKey)> FenceAsync(NpgsqlConnection connection, Guid id, CancellationToken cancel) =>
        connection.QuerySingleOrDefaultAsync<(long?, string?)>(new CommandDefinition(
            "SELECT fence, email_key FROM users WHERE id = @id", new { id }, cancellationToken: cancel));
}
