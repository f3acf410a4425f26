using System.Buffers;
using System.Diagnostics.Metrics;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using Microsoft.AspNetCore.HostFiltering;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Serilog;
using Serilog.Core;
using Serilog.Events;

namespace CachingApi.Hosting;

/// <summary>The conventions of all endpoints: JSON, validation, errors, limits of size, the clock and the log.</summary>
internal static class ApiConventions
{
    public const int MaxBodyBytes = 64 * 1024;

    /// <summary>Ids are shorter than this; tokens are longer.</summary>
    private const int MaxPlainLength = 40;

    private static readonly SearchValues<char> PlainCharacters =
        SearchValues.Create("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    public static WebApplicationBuilder AddApiConventions(this WebApplicationBuilder builder)
    {
        // Each host has its own logger: a static one would belong to the last host of this process.
        builder.Host.UseSerilog(
            (context, services, log) =>
            {
                log.ReadFrom.Configuration(context.Configuration).ReadFrom.Services(services)
                    .Enrich.With<ShownPaths>().Filter.ByExcluding(IsLostClient);
                if (!context.Configuration.GetSection("Serilog:WriteTo").Exists())
                {
                    var isDevelopment = context.HostingEnvironment.IsDevelopment();
                    log.WriteTo.Sink(new BackgroundConsole(
                        isDevelopment ? new ConsoleText() : new ConsoleJson(),
                        Console.Out,
                        services.GetRequiredService<IMeterFactory>(),
                        services.GetRequiredService<TimeProvider>()));
                }
            },
            preserveStaticLogger: true);
        builder.Services.Configure<KestrelServerOptions>(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = MaxBodyBytes;
            kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(10);
        });
        builder.Services.AddHsts(hsts => (hsts.MaxAge, hsts.IncludeSubDomains) = (TimeSpan.FromDays(365), true));
        builder.Services.Configure<HostFilteringOptions>(hosts => hosts.IncludeFailureMessage = false); // the message is HTML
        builder.Services.Configure<JsonOptions>(json => Strict(json.SerializerOptions));
        builder.Services.Configure<RouteHandlerOptions>(routes => routes.ThrowOnBadRequest = true);
        builder.Services.AddValidation();
        builder.Services.AddErrors();
        builder.Services.AddSingleton(TimeProvider.System);
        return builder;
    }

    /// <summary>
    /// Kestrel logs an error if a client resets its connection while the body is being read, because the read is still under way when
    /// Kestrel drains the rest.
    /// </summary>
    private static bool IsLostClient(LogEvent entry) =>
        entry.Exception is InvalidOperationException
        && entry.Properties.TryGetValue("EventId", out var id)
        && id is StructureValue { Properties: var parts }
        && parts.Any(part => part is { Name: "Name", Value: ScalarValue { Value: "RequestBodyDrainBodyReaderInvalidState" } });

    /// <summary>
    /// A path without the segments that do not look like names or ids, because a client may have written an e-mail address or a token
    /// there.
    /// </summary>
    public static string Shown(string path)
    {
        foreach (var segment in path.AsSpan().Split('/'))
        {
            if (!IsPlain(path.AsSpan(segment)))
            {
                return string.Join('/', path.Split('/').Select(part => IsPlain(part) ? part : "*"));
            }
        }

        return path;
    }

    private static bool IsPlain(ReadOnlySpan<char> segment) =>
        segment.Length <= MaxPlainLength && !segment.ContainsAnyExcept(PlainCharacters);

    /// <summary>Shortens the path in the events of a request, to all of which the framework adds it: see <see cref="Shown"/>.</summary>
    private sealed class ShownPaths : ILogEventEnricher
    {
        private const string Name = "RequestPath";

        public void Enrich(LogEvent logEvent, ILogEventPropertyFactory propertyFactory)
        {
            if (logEvent.Properties.TryGetValue(Name, out var value) && value is ScalarValue { Value: string path })
            {
                logEvent.AddOrUpdateProperty(new(Name, new ScalarValue(Shown(path))));
            }
        }
    }

    public static WebApplication UseApiConventions(this WebApplication app)
    {
        app.UseSerilogRequestLogging(log =>
        {
            log.Logger = app.Services.GetRequiredService<Serilog.ILogger>();
            log.MessageTemplate = "HTTP {RequestMethod} {RequestPath} responded {StatusCode} in {Elapsed:0.0000} ms{Reason:l}";
            log.GetMessageTemplateProperties = (context, path, elapsed, status) =>
            [
                new("RequestMethod", new ScalarValue(context.Request.Method)),
                new("RequestPath", new ScalarValue(path)), // ShownPaths shortens it
                new("StatusCode", new ScalarValue(status)),
                new("Elapsed", new ScalarValue(elapsed)),
            ];
            log.EnrichDiagnosticContext = (line, context) => line.Set("Reason", context.Features.Get<ErrorReason>()?.Text ?? "");
            log.GetLevel = (context, _, error) =>
                error is not null || context.Response.StatusCode >= 500 ? LogEventLevel.Error
                : Operations.IsOperation(context.Request.Path) ? LogEventLevel.Debug
                : LogEventLevel.Information;
        });
        app.UseSecurityHeaders();
        app.UseHostCheck();
        app.UseStrictTransport();
        app.UseExceptionHandler();
        app.UseStatusCodePages();
        app.UseOperationsPort();
        app.UseJsonCharset();
        return app;
    }

    /// <summary>Adds a feature's source-generated JSON.</summary>
    public static IServiceCollection AddJson(this IServiceCollection services, JsonSerializerContext context) =>
        services.Configure<JsonOptions>(json => json.SerializerOptions.TypeInfoResolverChain.Insert(0, context));

    /// <summary>
    /// JSON by RFC 8259, camelCase. An unknown, duplicate or mistyped field is an error. Characters are not escaped, because browsers never
    /// read the answers as HTML (<c>nosniff</c>).
    /// </summary>
    public static void Strict(JsonSerializerOptions json)
    {
        json.PropertyNamingPolicy = JsonNamingPolicy.CamelCase;
        json.PropertyNameCaseInsensitive = false;
        json.NumberHandling = JsonNumberHandling.Strict;
        json.UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow;
        json.AllowDuplicateProperties = false;
        json.RespectNullableAnnotations = true;
        json.MaxDepth = 16;
        json.Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping;
    }
}

/// <summary>An enum as camelCase text; numbers and unknown names are refused.</summary>
internal sealed class CamelCaseEnum<T>() : JsonStringEnumConverter<T>(JsonNamingPolicy.CamelCase, allowIntegerValues: false)
    where T : struct, Enum;
