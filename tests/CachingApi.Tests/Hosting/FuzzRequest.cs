using System.Globalization;
using System.Text;
using System.Text.Json;
using CsCheck;

namespace CachingApi.Tests.Hosting;

/// <summary>How the bytes of a body are sent.</summary>
internal enum Framing
{
    ContentLength,
    Chunked,

    /// <summary>The size of a chunk is not a number, or is too large.</summary>
    BadChunk,

    /// <summary>The client closes its half of the connection in the middle of the body.</summary>
    CutOff,

    /// <summary>The client resets the connection in the middle of the body.</summary>
    Reset,
}

/// <summary>The session that a request carries.</summary>
internal enum Credential
{
    None,
    UserByToken,
    UserByCookie,
    AdminByToken,
}

/// <summary>
/// A generated request. Its target may name <c>&lt;user&gt;</c>, <c>&lt;session&gt;</c> and <c>&lt;admin&gt;</c>, which are known when it
/// is sent.
/// </summary>
internal sealed record FuzzRequest(
    OpenApiOperation Operation, string Target, string Headers, byte[] Body, Framing Framing, string ChunkSize, Credential Credential)
{
    /// <summary>The bytes to send, with the header lines of the session.</summary>
    public byte[] Bytes(string session, Func<string, string> resolve)
    {
        var head = $"{Operation.Method} {resolve(Target)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{session}{Headers}";
        byte[] body = Framing switch
        {
            Framing.Chunked => [.. Chunk(Body.Length.ToString("x", CultureInfo.InvariantCulture)), .. Body, .. "\r\n0\r\n\r\n"u8],
            Framing.BadChunk => [.. Chunk(ChunkSize), .. Body, .. "\r\n0\r\n\r\n"u8],
            Framing.CutOff or Framing.Reset => Body[..(Body.Length / 2)],
            _ => Body,
        };
        var framing = Framing is Framing.Chunked or Framing.BadChunk ? "Transfer-Encoding: chunked\r\n"
            : Body.Length > 0 || Operation.Body is not null ? $"Content-Length: {Body.Length}\r\n"
            : "";
        return [.. Encoding.Latin1.GetBytes($"{head}{framing}\r\n"), .. body];
    }

    public override string ToString()
    {
        var text = Encoding.Latin1.GetString(Bytes("", target => target));
        return $"{Framing}, {Credential}: {(text.Length > 3000 ? $"{text[..3000]}… ({text.Length} bytes)" : text)}";
    }

    private static byte[] Chunk(string size) => Encoding.ASCII.GetBytes($"{size}\r\n");
}

/// <summary>Generates requests for an operation: valid ones, and ones that are wrong in one or more ways.</summary>
internal static class FuzzRequests
{
    private static readonly string[] Odd =
    [
        "\0", "\u0001", "\t", "\r\n", "\u001b[31m", "\u007f", "\u0085", "\u00a0", "\u00ad", "e\u0301", "İ", "ß", "\u0378", "\u2028",
        "\u202e", "\u3000", "李", "ﷺ",
        "\ud800", "\udc00", "\ufdd0", "\ufeff", "\ufffd", "\ufffe", "\uffff", "😀", "\U0001FFFE", "\U000E0001", "\U0010FFFF",
        "\"", "\\", "'", "%", "%00", "%2f", "..", "/", ";", ":", "*", "?", "#", "&", "=", "+", "@", "{", "}", "[", "<script>", "${7*7}",
        "--", "v1", "g1",
    ];

    private static readonly string[] Numbers =
    [
        "0", "-0", "-1", "1", "2", "100", "101", "10001", "1.5", "1e2", "1e999", "-1E-999", "2147483648", "9223372036854775807",
        "9223372036854775808",
        "123456789012345678901234567890", "0.1e-7", "01", "+1", "0x10", "NaN", "Infinity", "1_000", "١",
    ];

    private static readonly string[] ContentTypes =
    [
        "application/json; charset=utf-8", "application/json;charset=UTF-8", "application/json; charset=utf8",
        "application/json; charset=\"utf-8\"",
        "application/json; charset=\"UTF\\-8\"", "application/json; charset=", "application/json; charset=\"\"",
        "application/json; charset", "application/json; charset=utf-7",
        "application/json; charset=utf-16", "application/json; charset=us-ascii", "application/json; charset=foo",
        "application/json; charset=%00",
        "application/json; charset=utf-8; charset=utf-16", "application/json; charset='utf-8'",
        "application/json; charset=utf-8; boundary=x",
        "application/json; CHARSET=utf-8", "application/json;", "application/json, application/json", "APPLICATION/JSON",
        "application/problem+json", "application/vnd.x+json",
        "application/*+json", "application/*", "*/*", "text/plain", "text/json", "text/html; charset=utf8",
        "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/xml", "json", "/", ";", "application/json; q", "application/json charset=utf-8", "application/jso\u00ffn",
    ];

    private static readonly string[] OtherHeaders =
    [
        "Accept: text/html", "Accept: */*;q=0", "Accept: ,,,", "Accept-Encoding: gzip, br", "Accept-Language: \u00e9",
        "Content-Encoding: gzip", "Content-Encoding: x",
        "If-Match: *", "If-Match: \"v1\"", "If-Match: W/\"v1\"", "If-Match: \"v99999999999999999999\"", "If-Match: v1", "If-Match: \"",
        "If-Match: \"v-1\", \"v1\"", "If-Match: ,",
        "If-None-Match: *", "If-None-Match: \"v1\"", "If-None-Match: \"", "If-None-Match: x, \"y", "If-Modified-Since: yesterday",
        "Range: bytes=0-1", "Range: x",
        "Expect: 100-continue", "Expect: x", "Cookie: __Host-session=", "Cookie: =", "Cookie: __Host-session=%00; __Host-session=x",
        "Cookie: \"", "Authorization: ",
        "Authorization: Bearer", "Authorization: Bearer ", "Authorization: Basic x", "Authorization: bearer \u00ff", "X-Api-Key: ",
        "X-Api-Key: \u00ff", "X-Forwarded-For: x",
        "X-Forwarded-For: 127.0.0.1, 999.1.1.1", "X-Forwarded-Proto: https", "X-HTTP-Method-Override: DELETE", "Origin: null",
        "Origin: https://example.org", "Origin: x",
        "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: ", "Referer: x", "User-Agent: ",
        "User-Agent: \u00e9\u00ff", "User-Agent: a\tb",
        "traceparent: x", "traceparent: 00-00000000000000000000000000000000-0000000000000000-00", "tracestate: ,=", "baggage: =;,",
        "Prefer: respond-async", "Connection: keep-alive",
        "Upgrade: websocket", "TE: trailers", "Cache-Control: no-cache", "Pragma: \u00ff", "Date: x", "Via: x",
    ];

    private static readonly Gen<string> Text = Gen.Frequency(
        (3, Gen.String[Gen.Char.AlphaNumeric, 0, 20]),
        (3, Gen.Select(
            Gen.String[Gen.Char.AlphaNumeric, 0, 5], Gen.OneOf(Odd), Gen.String[Gen.Char.AlphaNumeric, 0, 5], (before, odd, after) =>
                before + odd + after)),
        (1, Gen.Select(Gen.OneOf(Odd), Gen.OneOf(Odd), (one, other) => $"{one}{other}@example.org")),
        (2, Gen.String[Gen.Char, 0, 30]),
        (1, Gen.OneOf(Numbers)),
        (1, Gen.Select(Gen.OneOf("a", "é", "李", "😀", "@", "\0"), Gen.OneOf(99, 101, 129, 254, 255, 501, 4000), Repeat)));

    public static Gen<FuzzRequest> Of(OpenApiOperation operation) => Gen.Select(
        Target(operation),
        Gen.Frequency(
            (2, Gen.Const("")),
            (1, Gen.OneOf(OtherHeaders).Array[1, 4].Select(lines => string.Concat(lines.Select(line => $"{line}\r\n"))))),
        Body(operation),
        Gen.Frequency(
            (14, Gen.Const(Framing.ContentLength)),
            (3, Gen.Const(Framing.Chunked)),
            (1, Gen.Const(Framing.BadChunk)),
            (1, Gen.Const(Framing.CutOff)),
            (1, Gen.Const(Framing.Reset))),
        Gen.OneOf("80000000", "7fffffff", "fffffffff", "ffffffffffffffffff", "-1", "x", "", "0x1", "1;a=\"b"),
        Gen.Frequency(
            (1, Gen.Const(Credential.None)),
            (2, Gen.Const(Credential.UserByToken)),
            (1, Gen.Const(Credential.UserByCookie)),
            (3, Gen.Const(Credential.AdminByToken))),
        (target, headers, body, framing, chunk, credential) => new FuzzRequest(
            operation,
            target,
            $"{body.ContentType}{headers}",
            body.Bytes,
            body.Bytes.Length == 0 ? Framing.ContentLength : framing,
            chunk,
            credential));

    private static Gen<string> Target(OpenApiOperation operation)
    {
        var inPath = operation.Parameters.Where(parameter => parameter.In is "path").ToArray();
        var inQuery = operation.Parameters.Where(parameter => parameter.In is "query").ToArray();
        var path = inPath.Aggregate(
            Gen.Const(operation.Path),
            (whole, parameter) => Gen.Select(
                whole,
                PathValue(parameter.Name, parameter.Schema),
                (text, value) => text.Replace($"{{{parameter.Name}}}", value, StringComparison.Ordinal)));
        var query = inQuery.Aggregate(
            Gen.Const(""),
            (whole, parameter) => Gen.Select(whole, QueryValue(parameter.Name, parameter.Schema), (text, value) => $"{text}{value}"));
        var more = Gen.Frequency((6, Gen.Const("")), (1, Text.Select(text => $"&{Escaped(text)}")), (1, Gen.Const("&&=&x&%zz&%")));
        return Gen.Select(
            path, query, more, (address, known, others) => (known + others) is ['&', .. var all] ? $"{address}?{all}" : address);
    }

    /// <remarks>No empty segments and no dot segments, because they would address another route.</remarks>
    private static Gen<string> PathValue(string name, JsonElement schema) => Gen.Frequency(
        (5, name is "id" ? Gen.OneOf("<user>", "<session>", "<admin>") : Valid(name, schema).Select(Escaped)),
        (2, Valid(name, schema).Select(Escaped)),
        (3, Text.Where(text => text.Trim('.').Length > 0).Select(Escaped)),
        (1, Gen.OneOf(
            "%", "%zz", "%00", "%ff", "%c0%af", "%ed%a0%80", "a%2f..%2fb", "%5c", "{id}", "a;b=c", "%25", "a%0d%0ab", "%e2%80%ae")));

    private static Gen<string> QueryValue(string name, JsonElement schema) => Gen.Frequency(
        (2, Gen.Const("")),
        (5, Valid(name, schema).Select(value => $"&{name}={Escaped(value)}")),
        (2, Text.Select(value => $"&{name}={Escaped(value)}")),
        (1, Gen.OneOf(
            $"&{name}", $"&{name}=", $"&{name}=%00", $"&{name}=%ff", $"&{name}=1&{name}=2", $"&{name.ToUpperInvariant()}=1",
            $"&{name}[]=1")));

    private static Gen<(string ContentType, byte[] Bytes)> Body(OpenApiOperation operation)
    {
        if (operation.Body is not { } properties)
        {
            return Gen.Frequency((9, Gen.Const("")), (1, Text))
                .Select(text => (text.Length == 0 ? "" : "Content-Type: text/plain\r\n", Encoding.UTF8.GetBytes(text)));
        }

        var contentType = Gen.Frequency(
            (5, Gen.Const("Content-Type: application/json\r\n")),
            (3, Gen.OneOf(ContentTypes).Select(type => $"Content-Type: {type}\r\n")),
            (1, Gen.Const("")));
        var members = properties.Select(property => Gen.Frequency(
            (12, Valid(property.Name, property.Schema).Select(value => Member(property.Name, Literal(value, property.Schema)))),
            (3, Json.Select(value => Member(property.Name, value))),
            (1, Gen.Const("")),
            (1, Json.Select(value => $"{Member(property.Name, value)},{Member(property.Name, value)}"))));
        var valid = properties.Aggregate(Gen.Const(""), (whole, property) => Gen.Select(
            whole,
            Valid(property.Name, property.Schema),
            (text, value) => Joined(text, Member(property.Name, Literal(value, property.Schema)))));
        var mutated = members.Aggregate(Gen.Const(""), (whole, member) => Gen.Select(whole, member, Joined));
        var json = Gen.Frequency(
            (6, valid.Select(text => $"{{{text}}}")),
            (6, mutated.Select(text => $"{{{text}}}")),
            (1, Gen.Select(mutated, Text, Json, (text, name, value) => $"{{{Joined(text, Member(name, value))}}}")),
            (2, Json),
            (1, Gen.Const("")));
        var bytes = Gen.Frequency(
            (12, json.Select(Encoding.UTF8.GetBytes)),
            (1, json.Select(text => (byte[])[0xef, 0xbb, 0xbf, .. Encoding.UTF8.GetBytes(text)])),
            (1, json.Select(text => Encoding.Unicode.GetBytes(text))),
            (1, Gen.Select(
                json, Gen.Int[0, 100], (text, percent) =>
                    Encoding.UTF8.GetBytes(text)[..(Encoding.UTF8.GetByteCount(text) * percent / 100)])),
            (1, Gen.Select(
                json,
                Gen.OneOf((byte)0, (byte)0x80, (byte)0xc0, (byte)0xff),
                (text, odd) => (byte[])[.. Encoding.UTF8.GetBytes(text).SkipLast(2), odd, .. "\"}"u8])),
            (1, json.Select(text => Encoding.UTF8.GetBytes(text.PadRight(70_000)))),
            (1, Gen.Byte.Array[0, 50]));
        return Gen.Select(contentType, bytes, (type, content) => (type, content));
    }

    /// <summary>Any JSON: of all types, nested, with every kind of text.</summary>
    private static Gen<string> Json { get; } = Gen.Frequency(
        (4, Gen.Select(Text, Gen.Bool, Quoted)),
        (2, Gen.OneOf(Numbers)),
        (2, Gen.OneOf(
            "null", "true", "false", "{}", "[]", "[null]", "[\"\"]", "{\"a\":{\"b\":[1]}}", "\"\\ud800\"", "\"\\u0000\"", "\"\\x\"", "\"",
            "{\"\":0}",
            "//x\n1", "[1,]", "'a'")),
        (1, Gen.Select(Gen.OneOf(3, 15, 16, 17, 64, 1000, 20_000), Gen.Bool, (depth, closed) =>
            Repeat("[", depth) + (closed ? Repeat("]", depth) : ""))),
        (1, Gen.Select(Text, Text, (one, other) => $"[{Quoted(one, escaped: true)},{Quoted(other, escaped: true)}]")));

    /// <summary>A value that the schema allows: its example, one of its enumeration, or one by its type or name.</summary>
    private static Gen<string> Valid(string name, JsonElement schema)
    {
        if (name is "email")
        {
            return Gen.Int[0, 40].Select(number => $"fuzz{number}@example.org");
        }

        if (schema.TryGetProperty("enum", out var values))
        {
            return Gen.OneOf([.. values.EnumerateArray().Select(value => value.ToString())]);
        }

        string[] known = name switch
        {
            "cache" or "name" => ["users", "user-lists", "geocoding", "weather"],
            "city" => ["Berlin", "Zürich", "quito", "New York", "nowhere at all"],
            "policy" => ["default", "login", "weather", "demo-fixed-window", "demo-token-bucket"],
            "key" => ["users:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f", "user-lists:20:", "geocoding:berlin", "weather:52.52,13.41"],
            "strategy" => ["write-through", "invalidate", "write-behind"],
            "transport" => ["cookie", "bearer", "null"],
            "password" => ["a long and unusual sentence"], // of the users that other requests create
            "units" => ["metric", "imperial"],
            "after" => [Guid.AllBitsSet.ToString(), "01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f"],
            "keys" => ["""["01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f"]""", """["20:"]""", """["berlin"]""", """["52.52,13.41"]""", "null"],
            "top" => ["1", "5", "null"],
            "limit" => ["1", "20", "100"],
            _ => [Example(schema)],
        };
        return Gen.OneOf(known);
    }

    private static string Example(JsonElement schema) =>
        schema.TryGetProperty("examples", out var examples) ? examples[0].ToString()
        : schema.TryGetProperty("example", out var example) ? example.ToString()
        : "x";

    /// <summary>JSON of a value: text in quotes, everything else as it is.</summary>
    private static string Literal(string value, JsonElement schema) =>
        value is "null" || (schema.TryGetProperty("type", out var type) && !type.ToString().Contains("string", StringComparison.Ordinal))
            ? value
            : Quoted(value, escaped: false);

    private static string Member(string name, string value) => $"{Quoted(name, escaped: false)}:{value}";

    private static string Joined(string text, string member) => text.Length == 0 || member.Length == 0 ? text + member : $"{text},{member}";

    /// <summary>A JSON string; unpaired surrogates can be written in escapes only.</summary>
    private static string Quoted(string text, bool escaped) => string.Concat([
        "\"",
        .. text.Select(character =>
            escaped || character < ' ' ? $"\\u{(int)character:x4}" : character is '"' or '\\' ? $"\\{character}" : $"{character}"),
        "\"",
    ]);

    /// <summary>Percent-encoded UTF-8.</summary>
    private static string Escaped(string text) =>
        string.Concat(Encoding.UTF8.GetBytes(text).Select(octet =>
            char.IsAsciiLetterOrDigit((char)octet) || octet is (byte)'-' or (byte)'.' ? $"{(char)octet}" : $"%{octet:x2}"));

    private static string Repeat(string text, int times) => string.Concat(Enumerable.Repeat(text, times));
}
