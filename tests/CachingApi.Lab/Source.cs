using System.Collections.Concurrent;
using System.Diagnostics;
using CachingApi.Orders;
using Dapper;
using Npgsql;

namespace CachingApi.Lab;

/// <summary>The orders in PostgreSQL, as one contender reads and writes them. It counts the loads.</summary>
/// <param name="cost">How long PostgreSQL takes for a load.</param>
internal sealed class Source(NpgsqlDataSource postgres, TimeSpan cost) : IAsyncDisposable
{
    private readonly ConcurrentQueue<long> _loads = new();

    public NpgsqlDataSource Postgres => postgres;

    public int Loads => _loads.Count;

    /// <summary>When each load began.</summary>
    public IReadOnlyList<long> LoadTimes => [.. _loads];

    /// <summary>Forgets the loads so far.</summary>
    public void Forget() => _loads.Clear();

    /// <summary>The order, as it was when the statement began; <c>null</c> if it does not exist.</summary>
    public async Task<Order?> LoadAsync(string id, CancellationToken cancel)
    {
        _loads.Enqueue(Stopwatch.GetTimestamp());
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var order = await connection.QuerySingleAsync<Order>(new CommandDefinition(
            "SELECT orders.* FROM (SELECT pg_sleep(@seconds)) AS slow LEFT JOIN orders ON id = @id",
            new { id, seconds = cost.TotalSeconds },
            cancellationToken: cancel));
        return order.Id is null ? null : order;
    }

    public async Task<Order> CommitAsync(string id, int quantity, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleAsync<Order>(new CommandDefinition(
            "UPDATE orders SET quantity = @quantity, version = version + 1 WHERE id = @id RETURNING *",
            new { id, quantity },
            cancellationToken: cancel));
    }

    public ValueTask DisposeAsync() => postgres.DisposeAsync();
}
