using System.Data.Common;
using System.Net.Sockets;
using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>
/// The failures that are not caused by the data of a statement: the same statement may succeed later, unchanged. Every other failure
/// counts as a fault of the data, so that a single write cannot block all others.
/// </summary>
internal static class TransientFailures
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
        "42501", // insufficient privilege: a fault of the deployment, which must not make a dead letter of a write
        "42P01", // undefined table: as above
    ];

    /// <summary>Whether a failure is transient. A database error without a SQLSTATE comes from the connection.</summary>
    public static bool Includes(Exception failure) => failure switch
    {
        DbException { SqlState: { } state } => Prefixes.Any(prefix => state.StartsWith(prefix, StringComparison.Ordinal)),
        DbException or IOException or SocketException or TimeoutException or UnavailableException => true,
        OperationCanceledException or ObjectDisposedException => true, // the process is stopping
        _ => false,
    };
}
