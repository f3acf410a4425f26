using System.Text.Json;

namespace CachingApi.Tests.Hosting;

/// <summary>An operation of the OpenAPI document: its parameters, its body, and the answers that it declares.</summary>
internal sealed class OpenApiOperation
{
    private readonly JsonElement _document;
    private readonly JsonElement _operation;

    private OpenApiOperation(JsonElement document, string method, string path, JsonElement operation) =>
        (_document, Method, Path, _operation) = (document, method, path, operation);

    public string Method { get; }

    /// <summary>The template of the path, such as <c>/users/{id}</c>.</summary>
    public string Path { get; }

    public string Name => $"{Method} {Path}";

    public (string Name, string In, JsonElement Schema)[] Parameters =>
        _operation.TryGetProperty("parameters", out var parameters)
            ? [.. parameters.EnumerateArray().Select(parameter =>
                (parameter.GetProperty("name").GetString()!, parameter.GetProperty("in").GetString()!, parameter.GetProperty("schema")))]
            : [];

    /// <summary>The properties of the body; <c>null</c> if the operation takes none.</summary>
    public (string Name, JsonElement Schema)[]? Body =>
        _operation.TryGetProperty("requestBody", out var body)
            ? [.. Resolve(body.GetProperty("content").GetProperty("application/json").GetProperty("schema"))
                .GetProperty("properties").EnumerateObject().Select(property => (property.Name, Resolve(property.Value)))]
            : null;

    public static OpenApiOperation[] AllOf(JsonElement document) =>
    [
        .. document.GetProperty("paths").EnumerateObject().SelectMany(path => path.Value.EnumerateObject()
            .Select(operation => new OpenApiOperation(document, operation.Name.ToUpperInvariant(), path.Name, operation.Value))),
    ];

    /// <summary>Why the operation does not declare an answer; <c>null</c> if it does.</summary>
    public string? Undeclared(int status, string contentType, string body)
    {
        if (!_operation.GetProperty("responses").TryGetProperty($"{status}", out var response))
        {
            return $"The status {status} is not declared.";
        }

        if (!response.TryGetProperty("content", out var content))
        {
            return body.Length == 0 ? null : $"A body with {status} is not declared.";
        }

        var mediaType = contentType.Split(';')[0];
        if (!content.TryGetProperty(mediaType, out var media))
        {
            return $"The content type '{contentType}' with {status} is not declared.";
        }

        return Mismatch(JsonSerializer.Deserialize<JsonElement>(body), media.GetProperty("schema"), "$");
    }

    /// <summary>The headers of an answer that the operation does not declare, of those that the document describes.</summary>
    /// <remarks>Many answers have <c>Cache-Control</c>, and log-outs remove a cookie: the document shows both where they matter.</remarks>
    public string[] UndeclaredHeaders(int status, Func<string, string> header)
    {
        var response = _operation.GetProperty("responses").GetProperty($"{status}");
        return
        [
            .. _document.GetProperty("components").GetProperty("headers").EnumerateObject().Select(known => known.Name)
                .Where(name => name is not ("Cache-Control" or "Set-Cookie") && header(name).Length > 0
                    && !(response.TryGetProperty("headers", out var declared) && declared.TryGetProperty(name, out _))),
        ];
    }

    /// <summary>Compares types and required properties; that is enough to find an answer of another shape.</summary>
    private string? Mismatch(JsonElement value, JsonElement schema, string path)
    {
        schema = Resolve(schema);
        if (schema.TryGetProperty("oneOf", out var choices))
        {
            var mismatches = choices.EnumerateArray().Select(choice => Mismatch(value, choice, path)).ToArray();
            return mismatches.Any(mismatch => mismatch is null) ? null : string.Join(' ', mismatches);
        }

        if (schema.TryGetProperty("type", out var type))
        {
            string[] types = type.ValueKind is JsonValueKind.Array ? [.. type.EnumerateArray().Select(item => item.GetString()!)]
                : [type.GetString()!];
            if (!types.Any(name => Is(value, name)))
            {
                return $"{path} is {value.ValueKind}, not {string.Join('|', types)}.";
            }
        }

        if (value.ValueKind is JsonValueKind.Object && schema.TryGetProperty("properties", out var properties))
        {
            var missing = schema.TryGetProperty("required", out var required)
                ? required.EnumerateArray().FirstOrDefault(name => !value.TryGetProperty(name.GetString()!, out _))
                : default;
            return missing.ValueKind is JsonValueKind.String
                ? $"{path}.{missing} is missing."
                : value.EnumerateObject()
                    .Where(member => properties.TryGetProperty(member.Name, out _))
                    .Select(member => Mismatch(member.Value, properties.GetProperty(member.Name), $"{path}.{member.Name}"))
                    .FirstOrDefault(mismatch => mismatch is not null);
        }

        return value.ValueKind is JsonValueKind.Array && schema.TryGetProperty("items", out var items)
            ? value.EnumerateArray()
                .Select((item, index) => Mismatch(item, items, $"{path}[{index}]"))
                .FirstOrDefault(mismatch => mismatch is not null)
            : null;
    }

    private static bool Is(JsonElement value, string type) => type switch
    {
        "null" => value.ValueKind is JsonValueKind.Null,
        "boolean" => value.ValueKind is JsonValueKind.True or JsonValueKind.False,
        "integer" => value.ValueKind is JsonValueKind.Number && value.TryGetInt64(out _),
        "number" => value.ValueKind is JsonValueKind.Number,
        "string" => value.ValueKind is JsonValueKind.String,
        "array" => value.ValueKind is JsonValueKind.Array,
        _ => value.ValueKind is JsonValueKind.Object,
    };

    /// <summary>The schema itself, or the one that it refers to.</summary>
    private JsonElement Resolve(JsonElement schema)
    {
        if (schema.TryGetProperty("$ref", out var reference))
        {
            var name = reference.GetString()!.Split('/')[^1];
            return Resolve(_document.GetProperty("components").GetProperty("schemas").GetProperty(name));
        }

        return schema;
    }
}
