using CachingApi.Caching;
using Dapper;
using Npgsql;

namespace CachingApi.Orders;

/// <summary>Orders in PostgreSQL: SQL only.</summary>
public sealed class OrderRepository(NpgsqlDataSource postgres)
{
    /// <summary>The migration. The last two statements are for change data capture.</summary>
    public const string Schema =
        """
        CREATE TABLE orders (
            id text PRIMARY KEY,
            customer text NOT NULL,
            quantity int NOT NULL CHECK (quantity > 0),
            version bigint NOT NULL DEFAULT 1,
            fence bigint NOT NULL DEFAULT 0
        );
        CREATE INDEX orders_customer ON orders (customer);
        ALTER TABLE orders REPLICA IDENTITY FULL;
        ALTER PUBLICATION cachingapi ADD TABLE orders;
        """;

    public Task<Order?> FindAsync(string id, CancellationToken cancel) => WithAsync(
        "SELECT * FROM orders WHERE id = @id",
        new { id },
        (connection, query) => connection.QuerySingleOrDefaultAsync<Order>(query),
        cancel);

    public async Task<OrderList?> ListAsync(string customer, CancellationToken cancel) => new([
        .. await WithAsync(
            "SELECT * FROM orders WHERE customer = @customer ORDER BY id",
            new { customer },
            (connection, query) => connection.QueryAsync<Order>(query),
            cancel),
    ]);

    public async Task<IReadOnlyList<string>> NewestAsync(int count, CancellationToken cancel) => [
        .. await WithAsync(
            "SELECT id FROM orders ORDER BY id DESC LIMIT @count",
            new { count },
            (connection, query) => connection.QueryAsync<string>(query),
            cancel),
    ];

    public Task<Order> CreateAsync(string id, string customer, int quantity, CancellationToken cancel) => WithAsync(
        "INSERT INTO orders (id, customer, quantity) VALUES (@id, @customer, @quantity) RETURNING *",
        new { id, customer, quantity },
        (connection, query) => connection.QuerySingleAsync<Order>(query),
        cancel);

    public async Task<WriteResult<Order>> UpdateAsync(
        string id, OrderChange change, IReadOnlyCollection<long>? versions, WriteFence fence, CancellationToken cancel)
    {
        // If a pending write lies over the row, its version counts, not the row's.
        var order = await WithAsync(
            """
            UPDATE orders
            SET quantity = @quantity, version = greatest(version + 1, @version), fence = @token
            WHERE id = @id AND (fence < @token OR fence > @maxFence) AND (
                @versions::bigint[] IS NULL
                OR CASE
                    WHEN fence <= @pendingOver OR (version <= @pendingVersion AND fence <> @pendingToken) THEN @pendingVersion
                    ELSE version
                END = ANY (@versions))
            RETURNING *
            """,
            new
            {
                id,
                change.Quantity,
                versions = versions?.ToArray(),
                fence.Token,
                fence.Version,
                fence.MaxFence,
                fence.PendingToken,
                fence.PendingVersion,
                fence.PendingOver,
            },
            (connection, query) => connection.QuerySingleOrDefaultAsync<Order>(query),
            cancel);
        return order is not null ? order : await RefusalAsync(id, fence, cancel);
    }

    public async Task<WriteResult<Order>> DeleteAsync(string id, WriteFence fence, CancellationToken cancel)
    {
        var order = await WithAsync(
            "DELETE FROM orders WHERE id = @id AND (fence < @token OR fence > @maxFence) RETURNING *",
            new { id, fence.Token, fence.MaxFence },
            (connection, query) => connection.QuerySingleOrDefaultAsync<Order>(query),
            cancel);
        return order is not null ? order : await RefusalAsync(id, fence, cancel);
    }

    public async Task<IReadOnlyCollection<PersistedRow>> PersistAsync(
        IReadOnlyList<DeferredWrite<OrderChange>> writes, CancellationToken cancel) => [
            .. await WithAsync(
                """
                WITH batch AS (
                    SELECT * FROM unnest(@ids, @quantities, @versions, @tokens, @overs, @maxFences)
                        AS batch (id, quantity, version, token, over, max_fence)
                ), unlocked AS (
                    SELECT orders.id FROM batch JOIN orders USING (id) FOR UPDATE OF orders SKIP LOCKED
                ), written AS (
                    UPDATE orders
                    SET quantity = batch.quantity, version = greatest(orders.version + 1, batch.version), fence = batch.token
                    FROM batch JOIN unlocked USING (id)
                    WHERE orders.id = batch.id AND (orders.fence <= batch.over OR orders.fence > batch.max_fence)
                    RETURNING orders.id, orders.version, orders.fence
                )
                SELECT id, written.id IS NOT NULL, coalesce(written.version, orders.version), coalesce(written.fence, orders.fence)
                FROM batch JOIN orders USING (id) LEFT JOIN written USING (id)
                """,
                new
                {
                    ids = writes.Select(write => write.Id).ToArray(),
                    quantities = writes.Select(write => write.Change.Quantity).ToArray(),
                    versions = writes.Select(write => write.Version).ToArray(),
                    tokens = writes.Select(write => write.Token).ToArray(),
                    overs = writes.Select(write => write.Over).ToArray(),
                    maxFences = writes.Select(write => write.MaxFence).ToArray(),
                },
                async (connection, query) => (await connection.QueryAsync<(string Id, bool Written, long Version, long Fence)>(query))
                    .Select(row => new PersistedRow(row.Id, row.Written, row.Version, row.Fence)),
                cancel),
        ];

    public async Task<Revision?> BumpVersionAsync(string id, Revision write, CancellationToken cancel) =>
        await WithAsync(
            """
            UPDATE orders
            SET version = greatest(version, @version + 1), fence = CASE WHEN fence > @maxFence THEN fence ELSE greatest(fence, @fence) END
            WHERE id = @id
            RETURNING version, fence
            """,
            new { id, write.Version, write.Fence, MaxFence = WriteFence.MaxFenceAfter(write.Fence) },
            (connection, query) => connection.QuerySingleOrDefaultAsync<(long Version, long Fence)?>(query),
            cancel) is var (version, fence)
            ? new(version, fence)
            : null;

    /// <summary>The reason for which a statement found no row to change.</summary>
    private async Task<WriteResult<Order>> RefusalAsync(string id, WriteFence fence, CancellationToken cancel) =>
        await FindAsync(id, cancel) is not { } order ? WriteOutcome.NotFound
        : order.Fence >= fence.Token && order.Fence <= fence.MaxFence ? new WriteResult<Order>(WriteOutcome.Superseded, Fence: order.Fence)
        : WriteOutcome.VersionMismatch;

    private async Task<T> WithAsync<T>(
        string sql, object values, Func<NpgsqlConnection, CommandDefinition, Task<T>> query, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await query(connection, new(sql, values, cancellationToken: cancel));
    }
}
