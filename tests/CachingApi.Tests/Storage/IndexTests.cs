using CachingApi.Caching;
using CachingApi.Sessions;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Npgsql;

namespace CachingApi.Tests.Storage;

/// <summary>A cache complements indexes: every statement on the path of a miss or a write finds its rows by an index.</summary>
public sealed class IndexTests(TestServers servers)
{
    [Fact]
    public async Task No_statement_scans_a_table_of_100_000_users()
    {
        var database = await servers.CreateDatabaseAsync();
        // One connection, because its counts can be flushed.
        await using (var postgres = NpgsqlDataSource.Create($"{database};Maximum Pool Size=1"))
        {
            await ExecuteAsync(
                postgres,
                """
                INSERT INTO users (id, email, email_key, display_name, password_hash, created_at, updated_at)
                SELECT gen_random_uuid(), n || '@example.org', n || '@example.org', 'User ' || n, '', now(), now()
                FROM generate_series(1, 100000) AS n
                """);
            await ExecuteAsync(postgres, "ANALYZE users");
            var users = new UserRepository(postgres);
            var accounts = new AccountRepository(postgres);
            var now = TimeProvider.System.GetUtcNow().UtcDateTime;
            var change = new UserChange("777", "777", "Seven", now);
            var withEmail = change with { MayChangeEmail = true };
            var (scansBefore, indexScansBefore) = await ScansAsync(postgres);

            var account = (await accounts.FindAsync("777@EXAMPLE.org", CancellationToken.None))!;
            Assert.NotNull(await users.FindAsync(account.Id, CancellationToken.None));
            Assert.Equal(101, (await users.ListAsync(null, 101, CancellationToken.None)).Users.Count);
            Assert.NotEmpty((await users.ListAsync(Guid.AllBitsSet, 101, CancellationToken.None)).Users);
            Assert.NotNull(
                await users.CreateAsync(Guid.NewGuid(), "new@example.org", "new@example.org", "New", "", now, CancellationToken.None));
            Assert.Null(
                await users.CreateAsync(Guid.NewGuid(), "new@example.org", "new@example.org", "New", "", now, CancellationToken.None));
            Assert.Equal(
                WriteOutcome.Committed, (await users.UpdateAsync(account.Id, withEmail, [1], Turn(1), CancellationToken.None)).Outcome);
            Assert.Equal(WriteOutcome.VersionMismatch,
                (await users.UpdateAsync(account.Id, change, [1], Turn(2), CancellationToken.None)).Outcome);
            Assert.Equal(WriteOutcome.Superseded,
                (await users.UpdateAsync(account.Id, change, [1], Turn(1), CancellationToken.None)).Outcome);
            Assert.Equal(WriteOutcome.Conflict, (await users.UpdateAsync(
                account.Id, withEmail with { EmailKey = "778@example.org" }, null, Turn(3), CancellationToken.None)).Outcome);
            Assert.Equal(WriteOutcome.Rejected, (await users.UpdateAsync(
                account.Id, change with { EmailKey = "778@example.org" }, null, Turn(3), CancellationToken.None)).Outcome);
            Assert.NotNull(await accounts.FindAsync(account.Id, CancellationToken.None));
            Assert.Equal("user", await accounts.RoleAsync(account.Id, CancellationToken.None));
            Assert.True(Assert.Single(await users.PersistAsync(
                [new($"{account.Id}", change, Version: 3, Token: 4, Over: 3)], CancellationToken.None)).Written);
            Assert.Equal(new Revision(7, 4), await users.BumpVersionAsync(account.Id, new(6, 4), CancellationToken.None));
            var administrators = new AdminRepository(postgres, TimeProvider.System);
            Assert.Equal("admin", (await administrators.PromoteAsync(account.Id, "777", "", CancellationToken.None)).Role);
            Assert.True((await administrators.FindAsync("777", CancellationToken.None))!.Value.IsConfigured);
            Assert.Equal(8, (await users.DeleteAsync(account.Id, Turn(5), CancellationToken.None)).Value!.Version);

            var (scans, indexScans) = await ScansAsync(postgres);
            Assert.Equal(0, scans - scansBefore);
            Assert.True(indexScans - indexScansBefore >= 9);
        }

        await servers.DropDatabaseAsync(database);
    }

    private static WriteFence Turn(long token) => new(token, 0, 0, 0, -1);

    private static async Task<(long Sequential, long Index)> ScansAsync(NpgsqlDataSource postgres)
    {
        await ExecuteAsync(postgres, "SELECT pg_stat_force_next_flush()");
        await using var command = postgres.CreateCommand("SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'users'");
        await using var reader = await command.ExecuteReaderAsync();
        await reader.ReadAsync();
        return (reader.GetInt64(0), reader.GetInt64(1));
    }

    private static async Task ExecuteAsync(NpgsqlDataSource postgres, string sql)
    {
        await using var command = postgres.CreateCommand(sql);
        command.CommandTimeout = 120;
        await command.ExecuteNonQueryAsync();
    }
}
