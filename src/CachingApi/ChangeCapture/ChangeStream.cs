using System.Globalization;
using System.Runtime.CompilerServices;
using CachingApi.Redis;
using CachingApi.Storage;
using Dapper;
using Microsoft.Extensions.Options;
using Npgsql;
using Npgsql.Replication;
using Npgsql.Replication.PgOutput;
using Npgsql.Replication.PgOutput.Messages;
using NpgsqlTypes;

namespace CachingApi.ChangeCapture;

/// <summary>A committed change of one row.</summary>
/// <param name="Id">The row's <c>id</c>; <c>null</c> if it may be any row (<c>TRUNCATE</c>, or no <c>REPLICA IDENTITY FULL</c>).</param>
/// <param name="Version">The row's <c>version</c>; for a deleted row, the last one.</param>
/// <param name="Fence">The row's <c>fence</c>; 0 if it has none.</param>
internal readonly record struct RowChange(string Table, string? Id, long Version, long Fence, bool Deleted);

/// <summary>The state of the replication slot that delivers the changes of this database.</summary>
/// <param name="Possible">Whether PostgreSQL runs with <c>wal_level=logical</c>.</param>
/// <param name="Bounded">Whether <c>max_slot_wal_keep_size</c> limits what a slot may keep.</param>
/// <param name="Active">Whether any process reads from the slot; <c>null</c> if the slot does not exist.</param>
/// <param name="Lost">Whether PostgreSQL has removed WAL of the slot that no process had read.</param>
internal sealed record ChangeSlot(string Name, bool Possible, bool Bounded, bool? Active, bool? Lost)
{
    /// <summary>Whether a new slot must be created, which does not contain the changes until now.</summary>
    public bool IsMissing => Active is null || Lost == true;
}

/// <summary>A position in the changes of a database, up to which a cache has them.</summary>
/// <param name="System">The database cluster's own id.</param>
/// <param name="Timeline">Each promotion of a standby increases it. Positions of two timelines cannot be compared.</param>
internal readonly record struct ChangePosition(string System, uint Timeline, ulong Lsn)
{
    /// <summary>
    /// Whether a cache with the changes up to this position has all changes before <paramref name="other"/>, which a reader that begins
    /// there does not see.
    /// </summary>
    public bool Covers(ChangePosition other) => System == other.System && Timeline == other.Timeline && Lsn >= other.Lsn;

    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{System}/{Timeline:x8}/{Lsn:x16}");

    public static ChangePosition? Parse(string? text) =>
        text?.Split('/') is [var system, var timeline, var lsn]
        && uint.TryParse(timeline, NumberStyles.HexNumber, CultureInfo.InvariantCulture, out var line)
        && ulong.TryParse(lsn, NumberStyles.HexNumber, CultureInfo.InvariantCulture, out var position)
            ? new(system, line, position)
            : null;
}

/// <summary>Opens the stream of changes for one process at a time.</summary>
internal sealed class ChangeSource(NpgsqlDataSource postgres, IOptions<ConnectionStrings> connections, IOptions<RedisOptions> redis)
{
    /// <remarks>A slot belongs to the whole server, so its name contains the database and the key prefix in Redis.</remarks>
    public async Task<ChangeSlot> SlotAsync(CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        return await connection.QuerySingleAsync<ChangeSlot>(new CommandDefinition(
            """
            SELECT
                name AS Name,
                current_setting('wal_level') = 'logical' AS Possible,
                current_setting('max_slot_wal_keep_size') <> '-1' AS Bounded,
                slot.active AS Active,
                slot.wal_status = 'lost' AS Lost
            FROM (SELECT @prefix || '_' || oid AS name FROM pg_database WHERE datname = current_database()) AS own
            LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = own.name
            """,
            new { prefix = redis.Value.KeyPrefix.Replace('-', '_') },
            cancellationToken: cancel));
    }

    /// <summary>The database cluster that answers: its own id, and its timeline.</summary>
    public async Task<(string System, uint Timeline)> IdentifyAsync(CancellationToken cancel)
    {
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var (system, timeline) = await connection.QuerySingleAsync<(string, string)>(new CommandDefinition(
            "SELECT system_identifier::text, left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system()",
            cancellationToken: cancel));
        return (system, uint.Parse(timeline, NumberStyles.HexNumber, CultureInfo.InvariantCulture));
    }

    /// <summary>The position that was confirmed last, at which the stream begins.</summary>
    public async Task<ChangePosition> ConfirmedAsync(ChangeSlot slot, CancellationToken cancel)
    {
        var (system, timeline) = await IdentifyAsync(cancel);
        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var confirmed = await connection.QuerySingleAsync<string>(new CommandDefinition(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = @Name", slot, cancellationToken: cancel));
        return new(system, timeline, (ulong)NpgsqlLogSequenceNumber.Parse(confirmed));
    }

    /// <summary>Opens the stream; <c>null</c> while another process reads it.</summary>
    /// <exception cref="NpgsqlException">PostgreSQL is away, the role may not replicate, or there are too many slots.</exception>
    public async Task<ChangeStream?> TryOpenAsync(ChangeSlot slot, CancellationToken cancel)
    {
        if (slot is { IsMissing: false, Active: true })
        {
            return null;
        }

        if (slot.Lost == true)
        {
            await using var connection = await postgres.OpenConnectionAsync(cancel);
            await connection.ExecuteAsync(new CommandDefinition("SELECT pg_drop_replication_slot(@Name)", slot, cancellationToken: cancel));
        }

        try
        {
            return await ChangeStream.OpenAsync(connections.Value.Postgres, slot, cancel);
        }
        catch (PostgresException error) when (error.SqlState is PostgresErrorCodes.ObjectInUse or PostgresErrorCodes.DuplicateObject)
        {
            return null;
        }
    }
}

/// <summary>
/// The committed changes of the published tables, in the order of their commits, by PostgreSQL's logical replication (pgoutput).
/// </summary>
/// <remarks>
/// The slot keeps all WAL since the position that was confirmed last, even while no process reads, and it admits one reader at a time.
/// If the server does not bound retained WAL, the slot is a temporary one that ends with its reader, so that a service that is removed
/// for good cannot fill the disk.
/// </remarks>
internal sealed class ChangeStream : IAsyncDisposable
{
    /// <summary>As in <c>db/002_change_capture.sql</c>.</summary>
    private const string Publication = "cachingapi";

    /// <summary>How long either side waits for a message from the other. After that, another process can read the stream.</summary>
    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(10);

    private readonly LogicalReplicationConnection _connection;
    private readonly string _slot;

    private ChangeStream(LogicalReplicationConnection connection, string slot) => (_connection, _slot) = (connection, slot);

    /// <summary>The position up to which every change has been read.</summary>
    public NpgsqlLogSequenceNumber Received => _connection.LastReceivedLsn;

    public static async Task<ChangeStream> OpenAsync(string connectionString, ChangeSlot slot, CancellationToken cancel)
    {
        var settings = new NpgsqlConnectionStringBuilder(connectionString);
        settings.Options = string.Create(
            CultureInfo.InvariantCulture, $"{settings.Options} -c wal_sender_timeout={Timeout.TotalMilliseconds:0}");
        var connection = new LogicalReplicationConnection(settings.ConnectionString)
        {
            WalReceiverTimeout = Timeout,
            WalReceiverStatusInterval = TimeSpan.FromSeconds(1),
        };
        try
        {
            await connection.Open(cancel);
            if (slot.IsMissing)
            {
                await connection.CreatePgOutputReplicationSlot(
                    slot.Name, temporarySlot: !slot.Bounded, LogicalSlotSnapshotInitMode.NoExport, cancellationToken: cancel);
            }

            return new(connection, slot.Name);
        }
        catch
        {
            await connection.DisposeAsync();
            throw;
        }
    }

    /// <summary>Every change since the position that was confirmed last; the enumeration waits for more.</summary>
    /// <exception cref="NpgsqlException">PostgreSQL is away, or another process has opened the stream first.</exception>
    public async IAsyncEnumerable<RowChange> ReadAsync([EnumeratorCancellation] CancellationToken cancel)
    {
        var options = new PgOutputReplicationOptions(Publication, PgOutputProtocolVersion.V1);
        await foreach (var message in _connection.StartReplication(new PgOutputReplicationSlot(_slot), options, cancel))
        {
            switch (message)
            {
                case InsertMessage insert:
                    yield return await ReadAsync(insert.Relation, insert.NewRow, deleted: false);
                    break;
                case FullUpdateMessage update:
                    var before = await ReadAsync(update.Relation, update.OldRow, deleted: true);
                    var after = await ReadAsync(update.Relation, update.NewRow, deleted: false);
                    if (before.Id != after.Id)
                    {
                        yield return before;
                    }

                    yield return after;
                    break;
                case UpdateMessage update:
                    yield return await ReadAsync(update.Relation, update.NewRow, deleted: false);
                    break;
                case FullDeleteMessage delete:
                    yield return await ReadAsync(delete.Relation, delete.OldRow, deleted: true);
                    break;
                case DeleteMessage unknown:
                    yield return new(unknown.Relation.RelationName, null, 0, 0, Deleted: true);
                    break;
                case TruncateMessage truncate:
                    foreach (var table in truncate.Relations)
                    {
                        yield return new(table.RelationName, null, 0, 0, Deleted: true);
                    }

                    break;
            }
        }
    }

    /// <summary>Confirms that every change up to <paramref name="position"/> has been applied and is not needed again.</summary>
    public void Confirm(NpgsqlLogSequenceNumber position) => _connection.SetReplicationStatus(position);

    public ValueTask DisposeAsync() => _connection.DisposeAsync();

    private static async Task<RowChange> ReadAsync(RelationMessage table, ReplicationTuple row, bool deleted)
    {
        var (id, version, fence) = ("", 0L, 0L);
        await foreach (var column in row)
        {
            switch (column.GetFieldName())
            {
                case "id":
                    id = await column.Get<string>();
                    break;
                case "version":
                    version = long.Parse(await column.Get<string>(), CultureInfo.InvariantCulture);
                    break;
                case "fence":
                    fence = long.Parse(await column.Get<string>(), CultureInfo.InvariantCulture);
                    break;
            }
        }

        return new(table.RelationName, id, version, fence, deleted);
    }
}
