using System.Buffers;
using System.Buffers.Binary;
using System.IO.Hashing;
using System.Runtime.InteropServices;

namespace CachingApi.Caching;

/// <summary>The meaning of an entry for its key.</summary>
public enum EntryKind : byte
{
    /// <summary>The entry holds the value.</summary>
    Value = 0,

    /// <summary>The entity does not exist in the source.</summary>
    Negative = 1,

    /// <summary>The entry makes older revisions invalid. It is never served.</summary>
    Tombstone = 2,
}

/// <summary>
/// The order of an entity's entries: by version, then by the fencing token of the write. Two writes can receive the same version
/// if the state server loses data between them; their tokens still differ.
/// </summary>
public readonly record struct Revision(long Version, long Fence = 0) : IComparable<Revision>
{
    /// <inheritdoc/>
    public int CompareTo(Revision other) => (Version, Fence).CompareTo((other.Version, other.Fence));

    /// <summary>Whether the first is earlier than the second.</summary>
    public static bool operator <(Revision left, Revision right) => left.CompareTo(right) < 0;

    /// <summary>Whether the first is later than the second.</summary>
    public static bool operator >(Revision left, Revision right) => left.CompareTo(right) > 0;

    /// <summary>Whether the first is not later than the second.</summary>
    public static bool operator <=(Revision left, Revision right) => left.CompareTo(right) <= 0;

    /// <summary>Whether the first is not earlier than the second.</summary>
    public static bool operator >=(Revision left, Revision right) => left.CompareTo(right) >= 0;
}

/// <summary>
/// A cache entry as it is stored: a header of <see cref="HeaderSize"/> bytes, then the UTF-8 JSON of the response body, so that a
/// hit goes from the cache to the response without deserialisation.
/// </summary>
/// <remarks>
/// Header, big-endian: 1 byte magic, 1 format, 1 kind, 1 zero, 8 hash of the key, 8 version, 8 fence; 8 created, 8 fresh until,
/// 8 usable until (Unix milliseconds), 8 checksum, 4 load time (microseconds). The first 28 bytes have the same place in every
/// format. So this build can order an entry of another format, although it cannot read it. The checksum covers the body and the shape
/// of its type: a body that was written for another shape of the DTO is unreadable, too. In a value and in a negative entry, the
/// checksum also covers the header before it. A script turns both into tombstones, which have no body and are never served.
/// </remarks>
public sealed class CacheEntry
{
    internal const int HeaderSize = 64;

    private const byte Magic = 0xCA;
    private const byte Format = 3;

    private CacheEntry(ReadOnlyMemory<byte> bytes) => Bytes = bytes;

    /// <summary>The value as UTF-8 JSON; empty if the entry is not a value.</summary>
    public ReadOnlyMemory<byte> Body => Bytes[HeaderSize..];

    /// <summary>The meaning of the entry.</summary>
    public EntryKind Kind => (EntryKind)Bytes.Span[2];

    /// <summary>The version of the value; 0 for values without one.</summary>
    public long Version => ReadInt64(12);

    /// <summary>The revision, which orders the entries of one entity.</summary>
    public Revision Revision => RevisionIn(Bytes.Span);

    /// <summary>When the entry was made.</summary>
    public DateTimeOffset Created => DateTimeOffset.FromUnixTimeMilliseconds(ReadInt64(28));

    /// <summary>The time until which the entry is served as fresh.</summary>
    public DateTimeOffset FreshUntil => DateTimeOffset.FromUnixTimeMilliseconds(ReadInt64(36));

    /// <summary>The time until which the entry may be served stale.</summary>
    public DateTimeOffset UsableUntil => DateTimeOffset.FromUnixTimeMilliseconds(ReadInt64(44));

    /// <summary>Header and body.</summary>
    internal ReadOnlyMemory<byte> Bytes { get; }

    /// <summary>The object that the format has read from the body. It lives as long as memory keeps the entry.</summary>
    internal object? Parsed { get; set; }

    /// <summary>Hash of the body.</summary>
    internal ulong ContentHash => XxHash3.HashToUInt64(Body.Span);

    /// <summary>The duration of the load. Early refresh compares it with the time until expiry.</summary>
    internal TimeSpan LoadTime => TimeSpan.FromMicroseconds(BinaryPrimitives.ReadUInt32BigEndian(Bytes.Span[60..]));

    internal bool IsFresh(DateTimeOffset now) => Kind is not EntryKind.Tombstone && now < FreshUntil;

    internal bool IsUsable(DateTimeOffset now) => Kind is not EntryKind.Tombstone && now < UsableUntil;

    /// <summary>The entry that holds <paramref name="value"/>.</summary>
    internal static CacheEntry Of<T>(EntryKey key, Cache<T> cache, T value, TimeSpan loadTime, DateTimeOffset now) where T : class
    {
        var buffer = new ArrayBufferWriter<byte>(512);
        buffer.Advance(HeaderSize);
        cache.Format.Write(buffer, value);
        var freshUntil = cache.FreshUntil(value, now, now + cache.Options.Ttl * Shortened(cache.Options.Jitter));
        var usableUntil = freshUntil + cache.Options.StaleFor;
        return new(Stamped(buffer, key, EntryKind.Value, cache.RevisionOf(value), now, freshUntil, usableUntil, loadTime))
        {
            Parsed = cache.Format.ParsedOf(value),
        };
    }

    /// <summary>The entry for an entity that does not exist in the source, as of <paramref name="revision"/>.</summary>
    internal static CacheEntry Negative(EntryKey key, CacheOptions settings, Revision revision, TimeSpan loadTime, DateTimeOffset now)
    {
        var until = now + settings.NegativeTtl * Shortened(settings.Jitter);
        return new(Stamped(Header(), key, EntryKind.Negative, revision, now, until, until, loadTime));
    }

    /// <summary>The entry that keeps out every revision older than <paramref name="revision"/>.</summary>
    internal static CacheEntry Tombstone(EntryKey key, Revision revision, DateTimeOffset now) =>
        new(Stamped(Header(), key, EntryKind.Tombstone, revision, now, DateTimeOffset.UnixEpoch, DateTimeOffset.UnixEpoch, TimeSpan.Zero));

    /// <summary>Reads an entry; <c>null</c> if it is foreign, of another format or shape, cut off, damaged, or of another key.</summary>
    internal static CacheEntry? Parse(EntryKey key, ReadOnlyMemory<byte> bytes)
    {
        var span = bytes.Span;
        return span.Length >= HeaderSize
            && RevisionOf(key, span) is not null
            && span[1] == Format
            && span[2] <= (byte)EntryKind.Tombstone
            && (span[2] == (byte)EntryKind.Tombstone || BinaryPrimitives.ReadUInt64BigEndian(span[52..]) == ChecksumOf(key, span))
                ? new(bytes)
                : null;
    }

    /// <summary>The revision of an entry of any format; <c>null</c> if the bytes are foreign, or an entry of another key.</summary>
    internal static Revision? RevisionOf(EntryKey key, ReadOnlySpan<byte> bytes) =>
        bytes.Length >= 28 && bytes[0] == Magic && BinaryPrimitives.ReadUInt64BigEndian(bytes[4..]) == key.Hash
            ? RevisionIn(bytes)
            : null;

    /// <summary>The beginning of every readable entry of this key: magic, format, and the hash of the key.</summary>
    internal static byte[] Mark(EntryKey key)
    {
        var mark = new byte[10];
        (mark[0], mark[1]) = (Magic, Format);
        BinaryPrimitives.WriteUInt64BigEndian(mark.AsSpan(2), key.Hash);
        return mark;
    }

    private static Revision RevisionIn(ReadOnlySpan<byte> bytes) =>
        new(BinaryPrimitives.ReadInt64BigEndian(bytes[12..]), BinaryPrimitives.ReadInt64BigEndian(bytes[20..]));

    private static ulong ChecksumOf(EntryKey key, ReadOnlySpan<byte> entry) =>
        XxHash3.HashToUInt64(entry[HeaderSize..], unchecked((long)(key.Shape ^ XxHash3.HashToUInt64(entry[..52]))));

    private static ArrayBufferWriter<byte> Header()
    {
        var buffer = new ArrayBufferWriter<byte>(HeaderSize);
        buffer.Advance(HeaderSize);
        return buffer;
    }

    private static ReadOnlyMemory<byte> Stamped(
        ArrayBufferWriter<byte> buffer,
        EntryKey key,
        EntryKind kind,
        Revision revision,
        DateTimeOffset created,
        DateTimeOffset freshUntil,
        DateTimeOffset usableUntil,
        TimeSpan loadTime)
    {
        var header = MemoryMarshal.AsMemory(buffer.WrittenMemory).Span;
        (header[0], header[1], header[2], header[3]) = (Magic, Format, (byte)kind, 0);
        BinaryPrimitives.WriteUInt64BigEndian(header[4..], key.Hash);
        BinaryPrimitives.WriteInt64BigEndian(header[12..], revision.Version);
        BinaryPrimitives.WriteInt64BigEndian(header[20..], revision.Fence);
        BinaryPrimitives.WriteInt64BigEndian(header[28..], created.ToUnixTimeMilliseconds());
        BinaryPrimitives.WriteInt64BigEndian(header[36..], freshUntil.ToUnixTimeMilliseconds());
        BinaryPrimitives.WriteInt64BigEndian(header[44..], usableUntil.ToUnixTimeMilliseconds());
        BinaryPrimitives.WriteUInt64BigEndian(header[52..], ChecksumOf(key, header));
        BinaryPrimitives.WriteUInt32BigEndian(header[60..], (uint)Math.Clamp(loadTime.TotalMicroseconds, 0, uint.MaxValue));
        return buffer.WrittenMemory;
    }

    private static double Shortened(double jitter) => 1 - jitter * Random.Shared.NextDouble();

    private long ReadInt64(int offset) => BinaryPrimitives.ReadInt64BigEndian(Bytes.Span[offset..]);
}

/// <summary>An entry's key in Redis, and the hash of it that the entry carries.</summary>
/// <param name="Shape">Hash of the shape of the cached type (see <see cref="TypeShape"/>); 0 for entries without a body.</param>
internal readonly record struct EntryKey(string Text, ulong Shape = 0)
{
    public ulong Hash { get; } = XxHash3.HashToUInt64(MemoryMarshal.AsBytes(Text.AsSpan()));

    /// <summary>The key of the entry's lease. The braces put both keys into one slot of a Redis Cluster.</summary>
    public string Lease => $"{{{Text}}}:lease";

    public override string ToString() => Text;
}
