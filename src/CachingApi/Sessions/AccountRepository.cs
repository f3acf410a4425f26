using Dapper;
using Npgsql;

namespace CachingApi.Sessions;

/// <summary>The part of a user that a login needs.</summary>
internal sealed record Account
{
    public required Guid Id { get; init; }

    public required string Role { get; init; }

    public required string PasswordHash { get; init; }
}

/// <summary>Accounts in PostgreSQL.</summary>
internal sealed class AccountRepository(NpgsqlDataSource postgres)
{
    public async Task<Account?> FindAsync(string email, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<Account>(new CommandDefinition(
            """
            SELECT id, role, password_hash AS PasswordHash
            FROM users
            WHERE email_key = @key
            """,
            new { key = Email.Key(email) },
            cancellationToken: cancel));
    }

    public async Task<Account?> FindAsync(Guid id, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<Account>(new CommandDefinition(
            """
            SELECT id, role, password_hash AS PasswordHash
            FROM users
            WHERE id = @id
            """,
            new { id },
            cancellationToken: cancel));
    }

    /// <summary>The e-mail address and the name of a user, which the password must not resemble.</summary>
    public async Task<(string Email, string DisplayName)?> NamesAsync(Guid id, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<(string, string)?>(new CommandDefinition(
            "SELECT email, display_name FROM users WHERE id = @id", new { id }, cancellationToken: cancel));
    }

    public async Task<string?> RoleAsync(Guid id, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.ExecuteScalarAsync<string?>(new CommandDefinition(
            "SELECT role FROM users WHERE id = @id", new { id }, cancellationToken: cancel));
    }

    /// <summary>
    /// Replaces a password's hash if it is still the expected one. Cached users do not contain it, so nothing is invalidated.
    /// </summary>
    public async Task<bool> ChangePasswordAsync(Guid id, string expected, string hash, CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.ExecuteAsync(new CommandDefinition(
            "UPDATE users SET password_hash = @hash WHERE id = @id AND password_hash = @expected",
            new { id, expected, hash },
            cancellationToken: cancel)) > 0;
    }
}
