using System.Buffers;
using System.Buffers.Binary;
using System.IO.Hashing;
using System.Runtime.InteropServices;
using System.Text.Json;

namespace CachingApi.Caching;

/// <summary>What an entry says about its key.</summary>
internal enum EntryKind : byte
{
    /// <summary>It holds the thing.</summary>
    Value = 0,

    /// <summary>It says that there is no such thing.</summary>
    Negative = 1,

    /// <summary>It says nothing but "whatever is older than this version is void".</summary>
    Tombstone = 2,
}

/// <summary>
/// A cached thing as it is stored: a header of <see cref="HeaderSize"/> bytes, then the UTF-8 JSON of the response body,
/// so that a hit goes from the cache to the response without deserialisation.
/// </summary>
/// <remarks>
/// Header, big-endian: 2 bytes magic and format, 1 kind, 1 zero, 8 hash of the key, 8 version, 8 created, 8 fresh until,
/// 8 usable until (Unix milliseconds), 4 load time (microseconds). The scripts read the magic and the version.
/// </remarks>
internal sealed class CacheEntry
{
    public const int HeaderSize = 48;

    private const ushort Magic = 0xCA01;

    private CacheEntry(ReadOnlyMemory<byte> bytes) => Bytes = bytes;

    /// <summary>Header and body.</summary>
    public ReadOnlyMemory<byte> Bytes { get; }

    public ReadOnlyMemory<byte> Body => Bytes[HeaderSize..];

    public EntryKind Kind => (EntryKind)Bytes.Span[2];

    public long Version => ReadInt64(12);

    public DateTimeOffset Created => DateTimeOffset.FromUnixTimeMilliseconds(ReadInt64(20));

    public DateTimeOffset FreshUntil => DateTimeOffset.FromUnixTimeMilliseconds(ReadInt64(28));

    public DateTimeOffset UsableUntil => DateTimeOffset.FromUnixTimeMilliseconds(ReadInt64(36));

    /// <summary>What it cost to load: early refresh weighs it against the time that is left.</summary>
    public TimeSpan LoadTime => TimeSpan.FromMicroseconds(BinaryPrimitives.ReadUInt32BigEndian(Bytes.Span[44..]));

    public bool IsFresh(DateTimeOffset now) => Kind is not EntryKind.Tombstone && now < FreshUntil;

    public bool IsUsable(DateTimeOffset now) => Kind is not EntryKind.Tombstone && now < UsableUntil;

    /// <summary>The entry that holds <paramref name="value"/>.</summary>
    public static CacheEntry Of<T>(EntryKey key, Cache<T> cache, T value, TimeSpan loadTime, DateTimeOffset now) where T : class
    {
        var buffer = new ArrayBufferWriter<byte>(512);
        buffer.Advance(HeaderSize);
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = cache.Json.Options.Encoder }))
        {
            JsonSerializer.Serialize(json, value, cache.Json);
        }

        var freshUntil = cache.FreshUntil(value, now, now + cache.Settings.Ttl * Shortened(cache.Settings.Jitter));
        return new(Stamped(buffer, key, EntryKind.Value, cache.VersionOf(value), now, freshUntil, freshUntil + cache.Settings.StaleFor, loadTime));
    }

    /// <summary>The entry that says "there is no such thing" as of <paramref name="version"/>.</summary>
    public static CacheEntry Negative(EntryKey key, CacheSettings settings, long version, TimeSpan loadTime, DateTimeOffset now)
    {
        var until = now + settings.NegativeTtl * Shortened(settings.Jitter);
        return new(Stamped(Header(), key, EntryKind.Negative, version, now, until, until, loadTime));
    }

    /// <summary>The entry that keeps out whatever is older than <paramref name="version"/>.</summary>
    public static CacheEntry Tombstone(EntryKey key, long version, DateTimeOffset now) =>
        new(Stamped(Header(), key, EntryKind.Tombstone, version, now, DateTimeOffset.UnixEpoch, DateTimeOffset.UnixEpoch, TimeSpan.Zero));

    /// <summary>Reads an entry; <c>null</c> where it is foreign, of another format, cut off, or meant for another key.</summary>
    public static CacheEntry? Parse(EntryKey key, ReadOnlyMemory<byte> bytes)
    {
        var header = bytes.Span;
        return header.Length >= HeaderSize
            && BinaryPrimitives.ReadUInt16BigEndian(header) == Magic
            && header[2] <= (byte)EntryKind.Tombstone
            && BinaryPrimitives.ReadUInt64BigEndian(header[4..]) == key.Hash
                ? new(bytes)
                : null;
    }

    /// <summary>What the header of every entry of this key has: 2 bytes magic and format, 8 hash of the key.</summary>
    public static byte[] Mark(EntryKey key)
    {
        var mark = new byte[10];
        BinaryPrimitives.WriteUInt16BigEndian(mark, Magic);
        BinaryPrimitives.WriteUInt64BigEndian(mark.AsSpan(2), key.Hash);
        return mark;
    }

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
        long version,
        DateTimeOffset created,
        DateTimeOffset freshUntil,
        DateTimeOffset usableUntil,
        TimeSpan loadTime)
    {
        var header = MemoryMarshal.AsMemory(buffer.WrittenMemory).Span;
        BinaryPrimitives.WriteUInt16BigEndian(header, Magic);
        header[2] = (byte)kind;
        header[3] = 0;
        BinaryPrimitives.WriteUInt64BigEndian(header[4..], key.Hash);
        BinaryPrimitives.WriteInt64BigEndian(header[12..], version);
        BinaryPrimitives.WriteInt64BigEndian(header[20..], created.ToUnixTimeMilliseconds());
        BinaryPrimitives.WriteInt64BigEndian(header[28..], freshUntil.ToUnixTimeMilliseconds());
        BinaryPrimitives.WriteInt64BigEndian(header[36..], usableUntil.ToUnixTimeMilliseconds());
        BinaryPrimitives.WriteUInt32BigEndian(header[44..], (uint)Math.Clamp(loadTime.TotalMicroseconds, 0, uint.MaxValue));
        return buffer.WrittenMemory;
    }

    private static double Shortened(double jitter) => 1 - jitter * Random.Shared.NextDouble();

    private long ReadInt64(int offset) => BinaryPrimitives.ReadInt64BigEndian(Bytes.Span[offset..]);
}

/// <summary>An entry's key in Redis, and the hash of it that the entry carries.</summary>
internal readonly record struct EntryKey(string Text)
{
    public ulong Hash { get; } = XxHash3.HashToUInt64(MemoryMarshal.AsBytes(Text.AsSpan()));

    /// <summary>The key of its lease: the braces put both into one slot of a Redis Cluster.</summary>
    public string Lease => $"{{{Text}}}:lease";

    public override string ToString() => Text;
}
