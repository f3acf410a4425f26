using System.IO.Hashing;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json.Serialization.Metadata;

namespace CachingApi.Caching;

/// <summary>
/// A hash of the JSON shape of a type: the names and types of its properties, and of theirs. If a build changes the type, it cannot read
/// bodies that other builds have cached, and its ETags differ from theirs.
/// </summary>
internal static class TypeShape
{
    public static ulong Of(JsonTypeInfo type)
    {
        var text = new StringBuilder();
        Describe(type, text, []);
        return XxHash3.HashToUInt64(MemoryMarshal.AsBytes(text.ToString().AsSpan()));
    }

    private static void Describe(JsonTypeInfo type, StringBuilder text, HashSet<Type> described)
    {
        text.Append(type.Kind).Append(' ').Append(type.Type);
        if (type.Type.IsEnum)
        {
            text.AppendJoin(',', Enum.GetNames(type.Type));
        }

        if (!described.Add(type.Type))
        {
            return;
        }

        foreach (var property in type.Properties)
        {
            text.Append('\n').Append(property.Name).Append(": ");
            Describe(type.Options.GetTypeInfo(property.PropertyType), text, described);
        }

        foreach (var inner in new[] { type.KeyType, type.ElementType }.OfType<Type>())
        {
            text.Append('\n').Append("of ");
            Describe(type.Options.GetTypeInfo(inner), text, described);
        }
    }
}
