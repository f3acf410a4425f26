using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace CachingApi.Tests.Caching;

/// <summary>The reads of a process never go back to an older version, in any generation and even if Redis does not answer.</summary>
public sealed class MonotonicReadTests(TestServers servers)
{
    [Fact]
    public async Task Pages_of_users_are_ordered_by_the_commits_that_they_show()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var users = node.Services.GetRequiredService<UserRepository>();
        async Task<long> SnapshotAsync(Guid? after = null) => (await users.ListAsync(after, 10, CancellationToken.None)).Snapshot;

        var empty = await SnapshotAsync(Guid.Empty);
        var user = await node.CreateUserAsync();
        var created = await SnapshotAsync();

        // The page does not show a transaction that began before it and commits after it.
        await using var connection = new NpgsqlConnection($"{node.Database};Pooling=false");
        await connection.OpenAsync();
        await using var transaction = await connection.BeginTransactionAsync();
        await using var command = new NpgsqlCommand(
            $"UPDATE users SET display_name = 'Later' WHERE id = '{user.Id}'", connection, transaction);
        await command.ExecuteNonQueryAsync();
        await node.CreateUserAsync(); // a later transaction that ends before it
        var under = await SnapshotAsync();
        await transaction.CommitAsync();
        var ended = await SnapshotAsync();

        Assert.True(empty > 0);
        Assert.True(created > empty, $"{created} > {empty}");
        Assert.True(under >= created, $"{under} >= {created}");
        Assert.True(ended > under, $"{ended} > {under}");
    }
}
