using System.ComponentModel;
using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Net.Mime;
using System.Reflection;
using System.Text.Json;
using CachingApi.Redis;
using Microsoft.AspNetCore.Diagnostics;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.AspNetCore.Http.Metadata;
using Microsoft.AspNetCore.WebUtilities;
using Microsoft.Extensions.Options;
using Npgsql;
using Serilog;
using ProblemDetails = Microsoft.AspNetCore.Mvc.ProblemDetails;

namespace CachingApi.Hosting;

/// <summary>The reason of a failed request, for its line in the log.</summary>
internal sealed record ErrorReason(string Text);

/// <summary>Answers every error with a problem (RFC 9457): a bad request with its errors, an outage with <c>Retry-After</c>.</summary>
internal static class Errors
{
    private const string SeeErrors = "The request is not valid; see errors.";

    public static IServiceCollection AddErrors(this IServiceCollection services)
    {
        services.AddSingleton<IProblemDetailsWriter, ProblemWriter>();
        services.AddProblemDetails(problems => problems.CustomizeProblemDetails = Complete);
        services.AddExceptionHandler<BadRequestHandler>();
        services.AddExceptionHandler<OutageHandler>();
        services.AddExceptionHandler<FaultHandler>();
        // The request's own line in the log has the exception.
        return services.Configure<ExceptionHandlerOptions>(handler => handler.SuppressDiagnosticsCallback = _ => true);
    }

    /// <summary>A 400 that names one field or parameter.</summary>
    private static ProblemDetails Invalid(string name, string problem) => new()
    {
        Status = StatusCodes.Status400BadRequest,
        Detail = SeeErrors,
        Extensions = { ["errors"] = new Dictionary<string, string[]> { [name] = [problem] } },
    };

    /// <summary>Adds the fields that every problem has: a sentence in <c>detail</c>, and the trace id of the log and the traces.</summary>
    private static void Complete(ProblemDetailsContext context)
    {
        var problem = context.ProblemDetails;
        problem.Status ??= context.HttpContext.Response.StatusCode;
        if (problem.Status is StatusCodes.Status400BadRequest && Unbound(context.HttpContext) is { } parameter)
        {
            var unparsed = new Dictionary<string, string[]> { [parameter.Name] = [Expected(parameter)] };
            problem.Detail = SeeErrors;
            if (problem is HttpValidationProblemDetails ofDefaults)
            {
                ofDefaults.Errors = unparsed; // the validation saw the default of the type, not the client's value
            }
            else
            {
                problem.Extensions["errors"] = unparsed;
            }
        }

        problem.Title ??= ReasonPhrases.GetReasonPhrase(problem.Status.Value);
        problem.Type = HasOwnType(problem) ? problem.Type : Type(problem.Status.Value);
        if (problem is HttpValidationProblemDetails { Errors: var errors } validation)
        {
            validation.Errors = errors.ToDictionary(error => JsonNamingPolicy.CamelCase.ConvertName(error.Key), error => error.Value);
        }

        problem.Detail ??= problem is HttpValidationProblemDetails
            ? SeeErrors
            : problem.Status switch
            {
                StatusCodes.Status401Unauthorized => "Log in first: POST /sessions.",
                StatusCodes.Status403Forbidden => "Your account may not do this.",
                StatusCodes.Status404NotFound => "There is nothing at this address.",
                StatusCodes.Status405MethodNotAllowed => "This method is not allowed here; see the header Allow.",
                StatusCodes.Status413PayloadTooLarge => $"The body may hold {MaxBodyBytes(context.HttpContext)} bytes at most.",
                StatusCodes.Status415UnsupportedMediaType => "The body must be application/json in UTF-8.",
                StatusCodes.Status500InternalServerError => "The service failed; the log has the error under this trace id.",
                _ => problem.Title,
            };
        problem.Extensions["traceId"] = System.Diagnostics.Activity.Current?.TraceId.ToString() ?? context.HttpContext.TraceIdentifier;
    }

    /// <summary>
    /// An optional parameter of the query that cannot be parsed: generated endpoints answer 400 without its name.
    /// </summary>
    private static IParameterBindingMetadata? Unbound(HttpContext context) => context.GetEndpoint()?.Metadata
        .GetOrderedMetadata<IParameterBindingMetadata>()
        .FirstOrDefault(parameter => parameter is { IsOptional: true, HasTryParse: true }
            && context.Request.Query[parameter.Name].ToString() is { Length: > 0 } text
            && !TypeDescriptor.GetConverter(parameter.ParameterInfo.ParameterType).IsValid(text));

    /// <summary>Names the values that a parameter of the route or the query may have.</summary>
    private static string Expected(IParameterBindingMetadata parameter) =>
        parameter.ParameterInfo.GetCustomAttribute<RangeAttribute>() is { } range
            ? $"A whole number from {range.Minimum} to {range.Maximum} is expected."
            : $"{Kind(parameter.ParameterInfo.ParameterType)} is expected.";

    /// <summary>Names the values of a type.</summary>
    private static string Kind(Type type)
    {
        type = Nullable.GetUnderlyingType(type) ?? type;
        return type == typeof(Guid) ? "A UUID, such as 01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f,"
            : type == typeof(int) || type == typeof(long) ? "A whole number"
            : type == typeof(string) ? "A string"
            : type.IsEnum ? $"One of {string.Join(", ", Enum.GetNames(type).Select(JsonNamingPolicy.CamelCase.ConvertName))}"
            : typeof(IEnumerable<string>).IsAssignableFrom(type) ? "An array of strings"
            : "Another form";
    }

    private static long? MaxBodyBytes(HttpContext context) => context.Features.Get<IHttpMaxRequestBodySizeFeature>()?.MaxRequestBodySize;

    /// <summary>Whether an endpoint has set the type; the framework's own types are on this site.</summary>
    private static bool HasOwnType(ProblemDetails problem) =>
        problem.Type?.StartsWith("https://tools.ietf.org/", StringComparison.Ordinal) == false;

    /// <summary>
    /// The section of RFC 9110 that defines a status, if one does: the sections have the order of the statuses. The type of 429 is IANA's.
    /// </summary>
    private static string Type(int status) => status switch
    {
        >= 400 and <= 417 => $"https://www.rfc-editor.org/rfc/rfc9110#section-15.5.{status - 399}",
        StatusCodes.Status429TooManyRequests => "https://iana.org/assignments/http-problem-types#quota-exceeded",
        >= 500 and <= 505 => $"https://www.rfc-editor.org/rfc/rfc9110#section-15.6.{status - 499}",
        _ => "about:blank",
    };

    /// <summary>Writes problems even if the request's <c>Accept</c> excludes them, so that every error has a body.</summary>
    private sealed class ProblemWriter(IOptions<JsonOptions> json) : IProblemDetailsWriter
    {
        public bool CanWrite(ProblemDetailsContext context) => true;

        /// <remarks>If the client has gone, writing has no effect, but a cancelled write would throw.</remarks>
        public ValueTask WriteAsync(ProblemDetailsContext context)
        {
            Complete(context);
            return new(context.HttpContext.Response.WriteAsJsonAsync(
                context.ProblemDetails,
                context.ProblemDetails.GetType(),
                json.Value.SerializerOptions,
                MediaTypeNames.Application.ProblemJson,
                CancellationToken.None));
        }
    }

    /// <summary>A request that could not be read: malformed JSON, an unknown field, a wrong type, too large a body.</summary>
    private sealed class BadRequestHandler(IProblemDetailsService problems, IOptions<JsonOptions> json) : IExceptionHandler
    {
        public async ValueTask<bool> TryHandleAsync(HttpContext httpContext, Exception exception, CancellationToken cancellationToken)
        {
            if (exception is not BadHttpRequestException bad)
            {
                return false;
            }

            httpContext.Response.StatusCode = bad.StatusCode;
            return await problems.TryWriteAsync(new()
            {
                HttpContext = httpContext,
                ProblemDetails = bad.InnerException is JsonException error
                    ? Explain(error, httpContext.Features.Get<IExceptionHandlerFeature>()?.Endpoint)
                    : Explain(bad, httpContext.Features.Get<IExceptionHandlerFeature>()?.Endpoint),
            });
        }

        /// <remarks>The serializer's messages name types of this service, so the answer has only the path.</remarks>
        private ProblemDetails Explain(JsonException error, Endpoint? endpoint)
        {
            var path = error.Path?.TrimStart('$').TrimStart('.') ?? "";
            if (path.Length == 0)
            {
                return new()
                {
                    Detail = string.Create(
                        CultureInfo.InvariantCulture, $"The body is not a JSON object as expected (line {error.LineNumber + 1})."),
                };
            }

            var type = endpoint?.Metadata.GetMetadata<IAcceptsMetadata>()?.RequestType;
            if (type is null)
            {
                return Invalid(path, "This value is malformed, doubled or of the wrong type.");
            }

            var fields = json.Value.SerializerOptions.GetTypeInfo(type).Properties;
            var field = fields.FirstOrDefault(known => known.Name == path.Split('[')[0]);
            return Invalid(path, field is null
                ? $"This field is unknown; there are {string.Join(", ", fields.Select(known => known.Name))}."
                : $"{Kind(field.PropertyType)} is expected, once.");
        }

        private static ProblemDetails Explain(BadHttpRequestException bad, Endpoint? endpoint)
        {
            var isMissing = bad.Message.StartsWith("Required parameter", StringComparison.Ordinal);
            if ((isMissing || bad.Message.StartsWith("Failed to bind parameter", StringComparison.Ordinal))
                && bad.Message.Split('"') is [_, var named, ..]
                && endpoint?.Metadata.GetOrderedMetadata<IParameterBindingMetadata>()
                    .FirstOrDefault(known => known.Name == named.Split(' ')[^1]) is { } parameter)
            {
                return Invalid(parameter.Name, isMissing ? "This parameter is required." : Expected(parameter));
            }

            return new()
            {
                Detail = bad.StatusCode is StatusCodes.Status400BadRequest
                    ? "The request cannot be read: its body is missing or cut off, or a header is malformed."
                    : null,
            };
        }
    }

    /// <summary>PostgreSQL or Redis is away: 503 with Retry-After. The log gets no stack trace per request.</summary>
    private sealed class OutageHandler(IProblemDetailsService problems) : IExceptionHandler
    {
        public async ValueTask<bool> TryHandleAsync(HttpContext httpContext, Exception exception, CancellationToken cancellationToken)
        {
            if (Outage(exception) is not { } outage)
            {
                return false;
            }

            httpContext.Features.Set(new ErrorReason($": {exception.GetType().Name}: {exception.Message}"));
            httpContext.Response.StatusCode = StatusCodes.Status503ServiceUnavailable;
            httpContext.Response.Headers.RetryAfter =
                Math.Max(1, Math.Ceiling(outage.RetryAfter.TotalSeconds)).ToString(CultureInfo.InvariantCulture);
            if (httpContext.Features.Get<IExceptionHandlerFeature>()?.Endpoint?.Metadata.GetMetadata<CachedRoute>() is not null)
            {
                httpContext.Response.Headers["Cache-Status"] = CachedRoute.CacheStatus(outage);
            }

            return await problems.TryWriteAsync(new() { HttpContext = httpContext, ProblemDetails = { Detail = outage.Message } });
        }

        private static UnavailableException? Outage(Exception exception) => exception switch
        {
            UnavailableException outage => outage,
            // A server that shuts down sends 57P01 to 57P03 on its connections.
            PostgresException { IsTransient: false, SqlState: var state } when !state.StartsWith("57P", StringComparison.Ordinal) => null,
            NpgsqlException or TimeoutException => new UnavailableException("The database", exception),
            _ => null,
        };
    }

    /// <summary>A defect of the service: 500, with the stack trace in the request's line of the log.</summary>
    private sealed class FaultHandler(IDiagnosticContext log) : IExceptionHandler
    {
        public ValueTask<bool> TryHandleAsync(HttpContext httpContext, Exception exception, CancellationToken cancellationToken)
        {
            log.SetException(exception);
            return new(false);
        }
    }
}
