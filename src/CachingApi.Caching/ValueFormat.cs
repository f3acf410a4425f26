using System.Buffers;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace CachingApi.Caching;

/// <summary>Converts the values of a cache to the bodies of entries.</summary>
internal abstract class ValueFormat<T>
{
    /// <summary>Hash of the shape of the bodies: entries of another shape are not read.</summary>
    public abstract ulong Shape { get; }

    public abstract void Write(IBufferWriter<byte> body, T value);

    public abstract T Read(ReadOnlyMemory<byte> body);

    /// <summary>The object that a read of a written value would yield: see <see cref="CacheEntry.Parsed"/>.</summary>
    public virtual object? ParsedOf(T value) => null;
}

/// <summary>UTF-8 JSON, which can be sent as the body of a response.</summary>
internal sealed class JsonFormat<T>(JsonTypeInfo<T> json) : ValueFormat<T>
{
    public override ulong Shape { get; } = TypeShape.Of(json);

    public override void Write(IBufferWriter<byte> body, T value)
    {
        using var writer = new Utf8JsonWriter(body, new JsonWriterOptions { Encoder = json.Options.Encoder });
        JsonSerializer.Serialize(writer, value, json);
    }

    public override T Read(ReadOnlyMemory<byte> body) => JsonSerializer.Deserialize(body.Span, json)!;
}
