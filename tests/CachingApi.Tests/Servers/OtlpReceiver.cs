using System.Collections.Concurrent;
using System.Text;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace CachingApi.Tests.Servers;

/// <summary>A span as it was received.</summary>
/// <param name="Attributes">The attributes; only text attributes have a value.</param>
internal sealed record ReceivedSpan(string TraceId, string Id, string ParentId, string Name, Dictionary<string, string> Attributes);

/// <summary>Takes traces over OTLP (http/protobuf), as a collector does.</summary>
internal sealed class OtlpReceiver : IAsyncDisposable
{
    private readonly WebApplication _app;
    private readonly ConcurrentQueue<byte[]> _bodies = new();

    private OtlpReceiver()
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        _app = builder.Build();
        _app.Urls.Add("http://127.0.0.1:0");
        _app.MapPost("/v1/traces", async (HttpRequest request) =>
        {
            using var body = new MemoryStream();
            await request.Body.CopyToAsync(body);
            _bodies.Enqueue(body.ToArray());
        });
    }

    /// <summary>Settings with which a service sends its traces here soon.</summary>
    public Dictionary<string, string> Settings => new()
    {
        ["OTEL_EXPORTER_OTLP_ENDPOINT"] = _app.Urls.First(),
        ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf",
        ["OTEL_BSP_SCHEDULE_DELAY"] = "100",
    };

    /// <summary>All received data, as text.</summary>
    public string Text => string.Join('\n', _bodies.Select(Encoding.UTF8.GetString));

    /// <summary>ExportTraceServiceRequest.resource_spans(1).scope_spans(2).spans(2), of opentelemetry-proto's trace.proto.</summary>
    public ReceivedSpan[] Spans =>
    [
        .. from body in _bodies
           from resource in Messages(body, 1)
           from scope in Messages(resource, 2)
           from span in Messages(scope, 2)
           select new ReceivedSpan(
               Convert.ToHexStringLower(Messages(span, 1).Single().Span),
               Convert.ToHexStringLower(Messages(span, 2).Single().Span),
               Convert.ToHexStringLower(Messages(span, 4).SingleOrDefault().Span),
               Utf8(Messages(span, 5).Single()),
               Messages(span, 9).ToDictionary(
                   pair => Utf8(Messages(pair, 1).Single()), pair => string.Concat(Messages(Messages(pair, 2).Single(), 1).Select(Utf8)))),
    ];

    public static async Task<OtlpReceiver> StartAsync()
    {
        var receiver = new OtlpReceiver();
        await receiver._app.StartAsync();
        return receiver;
    }

    public ValueTask DisposeAsync() => _app.DisposeAsync();

    private static string Utf8(ReadOnlyMemory<byte> bytes) => Encoding.UTF8.GetString(bytes.Span);

    /// <summary>The length-delimited fields of one number in a message of protobuf's wire format.</summary>
    private static List<ReadOnlyMemory<byte>> Messages(ReadOnlyMemory<byte> message, int number)
    {
        var found = new List<ReadOnlyMemory<byte>>();
        while (!message.IsEmpty)
        {
            var tag = Number(ref message);
            var length = (tag & 7) switch { 0 => 0, 1 => 8, 5 => 4, _ => (int)Number(ref message) };
            if ((tag & 7) == 0)
            {
                Number(ref message);
            }
            else if ((tag & 7) == 2 && (int)(tag >> 3) == number)
            {
                found.Add(message[..length]);
            }

            message = message[length..];
        }

        return found;
    }

    private static ulong Number(ref ReadOnlyMemory<byte> message)
    {
        var (value, shift) = (0UL, 0);
        while (true)
        {
            var next = message.Span[0];
            message = message[1..];
            value |= (ulong)(next & 0x7F) << shift;
            shift += 7;
            if (next < 0x80)
            {
                return value;
            }
        }
    }
}
