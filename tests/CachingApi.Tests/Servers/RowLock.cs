using CachingApi.Tests.Api;
using Npgsql;

namespace CachingApi.Tests.Servers;

/// <summary>A lock of a user's row, or of other rows. Reads go on, and writes wait for the lock.</summary>
internal sealed class RowLock : IAsyncDisposable
{
    private readonly ApiNode _node;
    private readonly NpgsqlConnection _connection;

    private RowLock(ApiNode node, NpgsqlConnection connection) => (_node, _connection) = (node, connection);

    public static Task<RowLock> TakeAsync(ApiNode node, Guid user) =>
        TakeAsync(node, $"SELECT 1 FROM users WHERE id = '{user}' FOR UPDATE");

    public static async Task<RowLock> TakeAsync(ApiNode node, string query)
    {
        var connection = new NpgsqlConnection($"{node.Database};Pooling=false");
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand($"BEGIN; {query}", connection);
        await command.ExecuteNonQueryAsync();
        return new(node, connection);
    }

    /// <summary>Ends when a statement waits for a lock.</summary>
    public Task WaitedForAsync() => Eventually.TrueAsync(async () => await _node.SqlAsync<long>(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()") > 0);

    /// <summary>Releases the lock.</summary>
    public ValueTask DisposeAsync() => _connection.DisposeAsync();
}
