using System.Buffers;
using System.Collections.Concurrent;
using System.ComponentModel;
using System.Diagnostics.CodeAnalysis;
using System.IO.Hashing;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.Extensions.Caching.Hybrid;

namespace CachingApi.Caching;

/// <summary>Converts values of one type to the payloads of entries and back.</summary>
internal abstract class HybridCodec(string typeName, ulong format)
{
    /// <summary>The type's name, with the names of its type arguments, without assemblies.</summary>
    public string TypeName => typeName;

    /// <summary>Hash of the type, its serializer and its shape: a payload of another format is not read.</summary>
    public ulong Format => format;
}

/// <inheritdoc/>
internal sealed class HybridCodec<T>(IHybridCacheSerializer<T> serializer, ulong shape)
    : HybridCodec(typeof(T).ToString(), FormatOf(serializer, shape))
{
    /// <summary>Whether all callers can share one object, because nothing can change it.</summary>
    public static bool IsImmutable { get; } = !RuntimeHelpers.IsReferenceOrContainsReferences<T>() || IsDeclaredImmutable();

    public void Write(T value, IBufferWriter<byte> payload) => serializer.Serialize(value, payload);

    /// <summary>The value of an entry: a shared object if it is immutable, else a new object for each caller.</summary>
    public T Read(CacheEntry entry, HybridEntry parsed)
    {
        if (parsed.IsNull)
        {
            return default!;
        }

        if (!IsImmutable)
        {
            return Deserialize(entry, parsed);
        }

        if (parsed.Shared is { } shared)
        {
            return (T)shared;
        }

        var value = Deserialize(entry, parsed);
        parsed.Shared = value;
        return value;
    }

    private T Deserialize(CacheEntry entry, HybridEntry parsed) => serializer.Deserialize(new(entry.Body[parsed.PayloadAt..]));

    private static bool IsDeclaredImmutable()
    {
        var type = Nullable.GetUnderlyingType(typeof(T)) ?? typeof(T);
        return type == typeof(string)
            || type.IsSealed && !type.IsArray && type.GetCustomAttribute<ImmutableObjectAttribute>() is { Immutable: true };
    }

    private static ulong FormatOf(IHybridCacheSerializer<T> serializer, ulong shape) =>
        XxHash3.HashToUInt64(MemoryMarshal.AsBytes($"{typeof(T)} {serializer.GetType()} {shape}".AsSpan()));
}

/// <summary>The codecs of one cache. Serializers and factories from the services come first, then the library's own.</summary>
internal sealed class HybridCodecs(IServiceProvider services)
{
    private readonly IHybridCacheSerializerFactory[] _factories = [.. services.GetServices<IHybridCacheSerializerFactory>().Reverse()];
    private readonly ConcurrentDictionary<Type, HybridCodec> _codecs = new();

    public HybridCodec<T> Of<T>() => (HybridCodec<T>)_codecs.GetOrAdd(typeof(T), static (_, from) => from.Create<T>(), this);

    /// <summary>Whether this process uses a type of this name.</summary>
    public bool Know(string typeName) => _codecs.Values.Any(codec => codec.TypeName == typeName);

    private HybridCodec<T> Create<T>()
    {
        if (services.GetService<IHybridCacheSerializer<T>>() is { } registered)
        {
            return new(registered, shape: 0);
        }

        if (PlainSerializer.Instance is IHybridCacheSerializer<T> plain)
        {
            return new(plain, shape: 0);
        }

        foreach (var factory in _factories)
        {
            if (factory.TryCreateSerializer<T>(out var made))
            {
                return new(made, shape: 0);
            }
        }

        var json = (JsonTypeInfo<T>)JsonOptions<T>().GetTypeInfo(typeof(T));
        return new(new JsonSerializer<T>(json), TypeShape.Of(json));
    }

    /// <summary>Options that are registered by the key that Microsoft's implementation also reads; else the default with fields.</summary>
    private JsonSerializerOptions JsonOptions<T>() => services is IKeyedServiceProvider keyed
        ? keyed.GetKeyedService<JsonSerializerOptions>(typeof(IHybridCacheSerializer<T>))
            ?? keyed.GetKeyedService<JsonSerializerOptions>(typeof(IHybridCacheSerializer<>))
            ?? DefaultJson.Options
        : DefaultJson.Options;

    private static class DefaultJson
    {
        private const string WithoutReflection = "A program without reflection must register options or serializers.";

        /// <remarks>Fields are included, because value tuples have no properties.</remarks>
        [UnconditionalSuppressMessage("Trimming", "IL2026", Justification = WithoutReflection)]
        [UnconditionalSuppressMessage("AOT", "IL3050", Justification = WithoutReflection)]
        public static JsonSerializerOptions Options { get; } = new()
        {
            IncludeFields = true,
            TypeInfoResolver = JsonSerializer.IsReflectionEnabledByDefault ? new DefaultJsonTypeInfoResolver() : null,
        };
    }

    private sealed class JsonSerializer<T>(JsonTypeInfo<T> json) : IHybridCacheSerializer<T>
    {
        public T Deserialize(ReadOnlySequence<byte> source)
        {
            if (source.IsSingleSegment)
            {
                return JsonSerializer.Deserialize(source.FirstSpan, json)!;
            }

            var reader = new Utf8JsonReader(source);
            return JsonSerializer.Deserialize(ref reader, json)!;
        }

        public void Serialize(T value, IBufferWriter<byte> target)
        {
            using var writer = new Utf8JsonWriter(target, new JsonWriterOptions { Encoder = json.Options.Encoder });
            JsonSerializer.Serialize(writer, value, json);
        }
    }

    private sealed class PlainSerializer : IHybridCacheSerializer<string>, IHybridCacheSerializer<byte[]>
    {
        public static object Instance { get; } = new PlainSerializer();

        string IHybridCacheSerializer<string>.Deserialize(ReadOnlySequence<byte> source) => Encoding.UTF8.GetString(source);

        void IHybridCacheSerializer<string>.Serialize(string value, IBufferWriter<byte> target) => Encoding.UTF8.GetBytes(value, target);

        byte[] IHybridCacheSerializer<byte[]>.Deserialize(ReadOnlySequence<byte> source) => source.ToArray();

        void IHybridCacheSerializer<byte[]>.Serialize(byte[] value, IBufferWriter<byte> target) => target.Write(value);
    }
}
