using System.Buffers;
using System.ComponentModel;
using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Text;
using Microsoft.Extensions.Caching.Hybrid;

namespace CachingApi.Tests.Caching.Hybrid;

/// <summary>A mutable value.</summary>
public sealed class Basket
{
    public List<string> Items { get; init; } = [];
}

/// <summary>A value that is declared immutable.</summary>
[ImmutableObject(true)]
public sealed record Price(decimal Amount, string Currency);

/// <summary>A value that JSON cannot restore: it needs a serializer of its own.</summary>
public sealed class Angle
{
    private Angle(int degrees) => Degrees = degrees;

    public int Degrees { get; }

    public static Angle Of(int degrees) => new(degrees);
}

/// <summary>Writes an <see cref="Angle"/> as text.</summary>
internal sealed class AngleSerializer : IHybridCacheSerializer<Angle>
{
    public Angle Deserialize(ReadOnlySequence<byte> source) =>
        Angle.Of(int.Parse(Encoding.UTF8.GetString(source), CultureInfo.InvariantCulture));

    public void Serialize(Angle value, IBufferWriter<byte> target) =>
        Encoding.UTF8.GetBytes(value.Degrees.ToString(CultureInfo.InvariantCulture), target);
}

/// <summary>Makes the serializer of <see cref="Angle"/>, and of no other type.</summary>
internal sealed class AngleSerializerFactory : IHybridCacheSerializerFactory
{
    public bool TryCreateSerializer<T>([NotNullWhen(true)] out IHybridCacheSerializer<T>? serializer)
    {
        serializer = new AngleSerializer() as IHybridCacheSerializer<T>;
        return serializer is not null;
    }
}

/// <summary>Writes a <see cref="Price"/> in another format than JSON.</summary>
internal sealed class PriceSerializer : IHybridCacheSerializer<Price>
{
    public Price Deserialize(ReadOnlySequence<byte> source) =>
        Encoding.UTF8.GetString(source).Split(' ') is [var amount, var currency]
            ? new(decimal.Parse(amount, CultureInfo.InvariantCulture), currency)
            : throw new FormatException("This is not a price.");

    public void Serialize(Price value, IBufferWriter<byte> target) =>
        Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{value.Amount} {value.Currency}"), target);
}
