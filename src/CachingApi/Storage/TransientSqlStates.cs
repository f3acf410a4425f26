using Npgsql;

namespace CachingApi.Storage;

/// <summary>
/// The SQLSTATEs that say nothing about the data of a statement: the same statement may succeed later, unchanged. Every other
/// error of PostgreSQL counts as the data's fault.
/// </summary>
internal static class TransientSqlStates
{
    private static readonly string[] Prefixes =
    [
        "08", // connection exception
        "25", // invalid transaction state: read-only after a failover, for example
        "28", // invalid authorization: no connection
        "3D", // invalid catalog name: no connection
        "40", // transaction rollback: deadlock, serialization failure
        "53", // insufficient resources
        "55", // object not in prerequisite state: lock not available, for example
        "57", // operator intervention: shutdown, cancellation
        "58", // system error: I/O
        "42501", // insufficient privilege: a fault of the deployment, of which no write may become a dead letter
        "42P01", // undefined table: the same
    ];

    public static bool Includes(PostgresException error) =>
        Prefixes.Any(prefix => error.SqlState.StartsWith(prefix, StringComparison.Ordinal));
}
