using System.Buffers;
using System.Buffers.Binary;
using System.IO.Hashing;
using System.Text;
using CachingApi.Caching.Hybrid;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>A value of the <see cref="TieredHybridCache"/> on its way into an entry, with the fields of that entry.</summary>
internal abstract class HybridValue
{
    public abstract HybridCodec Codec { get; }

    /// <summary>
    /// A value is not kept if the stamps of its tags are not known, because the removal of a tag would not invalidate it.
    /// </summary>
    public required bool IsKept { get; set; }

    public required TimeSpan Expiration { get; init; }

    public required StampedTag[] Tags { get; init; }

    public abstract bool IsNull { get; }

    /// <summary>The value itself if callers can share it.</summary>
    public abstract object? Shared { get; }

    /// <summary>The offset of the payload in the body; it is set when the body is written.</summary>
    public int PayloadAt { get; set; }

    public abstract void Write(IBufferWriter<byte> payload);
}

/// <inheritdoc/>
internal sealed class HybridValue<T>(T value, HybridCodec<T> codec) : HybridValue
{
    public override HybridCodec Codec => codec;

    public override bool IsNull => value is null;

    public override object? Shared => HybridCodec<T>.IsImmutable ? value : null;

    public override void Write(IBufferWriter<byte> payload) => codec.Write(value, payload);
}

/// <summary>The body of a hybrid entry without its payload, as it was read.</summary>
internal sealed class HybridEntry
{
    public required ulong Format { get; init; }

    public required bool IsNull { get; init; }

    public required int PayloadAt { get; init; }

    public required StampedTag[] Tags { get; set; }

    /// <summary>The codec of the payload; it is set when the payload's format is known to be the codec's.</summary>
    public HybridCodec? Codec { get; set; }

    /// <summary>The value itself if callers can share it.</summary>
    public object? Shared { get; set; }

    /// <summary>Whether, as far as this process knows, no tag of the entry has been removed since its load began.</summary>
    public bool HasCurrentTags
    {
        get
        {
            foreach (var tag in Tags)
            {
                if (!tag.IsCurrent)
                {
                    return false;
                }
            }

            return true;
        }
    }
}

/// <summary>The bodies of hybrid entries.</summary>
/// <remarks>
/// Little-endian: 1 byte flags (1: the value is <c>null</c>), 8 format (see <see cref="HybridCodec.Format"/>), the name of the type,
/// 4 number of tags, for each its name and 8 bytes stamp; then the payload. A name is 4 bytes length and UTF-8.
/// </remarks>
internal sealed partial class HybridFormat(
    IOptions<HybridCacheSettings> settings, TagTable tags, CacheMetrics metrics, ILogger<TieredHybridCache> log)
    : ValueFormat<HybridValue>
{
    private bool _logged;

    /// <summary>The tags that entries refer to.</summary>
    public TagTable Tags => tags;

    public override ulong Shape { get; } = XxHash3.HashToUInt64("hybrid 1"u8);

    public override void Write(IBufferWriter<byte> body, HybridValue value)
    {
        var counted = (ArrayBufferWriter<byte>)body;
        var begin = counted.WrittenCount;
        Span<byte> fixedPart = stackalloc byte[9];
        fixedPart[0] = value.IsNull ? (byte)1 : (byte)0;
        BinaryPrimitives.WriteUInt64LittleEndian(fixedPart[1..], value.Codec.Format);
        body.Write(fixedPart);
        WriteText(body, value.Codec.TypeName);
        Write(body, value.Tags.Length);
        foreach (var (tag, stamp) in value.Tags)
        {
            WriteText(body, tag.Name);
            BinaryPrimitives.WriteInt64LittleEndian(body.GetSpan(8), stamp);
            body.Advance(8);
        }

        value.PayloadAt = counted.WrittenCount - begin;
        if (!value.IsNull)
        {
            value.Write(body);
        }

        Limit(value, counted.WrittenCount - begin - value.PayloadAt);
    }

    /// <exception cref="NotSupportedException">Always: a value is read with its type, by <see cref="HybridCodec{T}"/>.</exception>
    public override HybridValue Read(ReadOnlyMemory<byte> body) => throw new NotSupportedException("A hybrid value is read with its type.");

    public override object? ParsedOf(HybridValue value) => new HybridEntry
    {
        Format = value.Codec.Format,
        IsNull = value.IsNull,
        PayloadAt = value.PayloadAt,
        Tags = value.Tags,
        Codec = value.Codec,
        Shared = value.Shared,
    };

    public HybridEntry Parse(CacheEntry entry)
    {
        if (entry.Parsed is HybridEntry parsed)
        {
            return parsed;
        }

        var body = entry.Body.Span;
        var at = 9;
        SkipText(body, ref at);
        var stamped = new StampedTag[ReadInt32(body, ref at)];
        for (var i = 0; i < stamped.Length; i++)
        {
            var tag = tags.Get(ReadText(body, ref at));
            stamped[i] = new(tag, BinaryPrimitives.ReadInt64LittleEndian(body[at..]));
            at += 8;
        }

        parsed = new()
        {
            IsNull = body[0] == 1,
            Format = BinaryPrimitives.ReadUInt64LittleEndian(body[1..]),
            PayloadAt = at,
            Tags = stamped,
        };
        entry.Parsed = parsed;
        return parsed;
    }

    public static string TypeNameIn(CacheEntry entry)
    {
        var at = 9;
        return ReadText(entry.Body.Span, ref at);
    }

    private void Limit(HybridValue value, int bytes)
    {
        var (cache, limit) = (settings.Value.Name, settings.Value.MaximumPayloadBytes);
        if (bytes <= limit)
        {
            return;
        }

        value.IsKept = false;
        metrics.Oversized(cache);
        if (!Interlocked.Exchange(ref _logged, true))
        {
            Log.TooLarge(log, bytes, cache, limit);
        }
    }

    private static void Write(IBufferWriter<byte> body, int value)
    {
        BinaryPrimitives.WriteInt32LittleEndian(body.GetSpan(4), value);
        body.Advance(4);
    }

    private static void WriteText(IBufferWriter<byte> body, string text)
    {
        Write(body, Encoding.UTF8.GetByteCount(text));
        Encoding.UTF8.GetBytes(text, body);
    }

    private static int ReadInt32(ReadOnlySpan<byte> body, ref int at)
    {
        at += 4;
        return BinaryPrimitives.ReadInt32LittleEndian(body[(at - 4)..]);
    }

    private static void SkipText(ReadOnlySpan<byte> body, ref int at)
    {
        var bytes = ReadInt32(body, ref at);
        at += bytes;
    }

    private static string ReadText(ReadOnlySpan<byte> body, ref int at)
    {
        var bytes = ReadInt32(body, ref at);
        at += bytes;
        return Encoding.UTF8.GetString(body.Slice(at - bytes, bytes));
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "A value of {Bytes} bytes is not cached in {Cache}: MaximumPayloadBytes is {Limit}. Further values are counted, not logged")]
        public static partial void TooLarge(ILogger log, int bytes, string cache, long limit);
    }
}
