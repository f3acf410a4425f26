using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using CachingApi.RateLimiting;
using Microsoft.Net.Http.Headers;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.SwaggerGen;
using Document = Microsoft.OpenApi.OpenApiDocument;

namespace CachingApi.Hosting;

/// <summary>Documents the headers of each answer and <c>If-None-Match</c>, and puts the answers in the order of their status.</summary>
internal sealed class HeaderDocs : IDocumentFilter
{
    private const string CacheStatus = "Cache-Status", Limit = "RateLimit", LimitPolicy = "RateLimit-Policy";

    private static readonly Dictionary<string, (string Description, JsonNode Example)> Headers = new()
    {
        [HeaderNames.Age] = ("Seconds since the cached entry was made.", 12),
        [HeaderNames.CacheControl] = ("Which caches may keep the answer, and for how long.", "private, no-cache"),
        [CacheStatus] = ("Whether the answer was cached: hit, or fwd with the reason (RFC 9211).",
            "CachingApi; hit; ttl=541; detail=memory"),
        [HeaderNames.ETag] = ("The version of the answer, for If-None-Match of a later read, or If-Match of a change.", "\"v3\""),
        [HeaderNames.Location] = ("The path of the created resource, or of the state of the accepted request.", "/sessions/current"),
        [Limit] = ("The permits that each policy has left: r permits, and more in t seconds.", "\"default\";r=99;t=60"),
        [LimitPolicy] = ("The policies that limit the request: q permits in w seconds.", "\"default\";q=100;w=60"),
        [HeaderNames.RetryAfter] = ("Seconds after which the client may try again.", 8),
        [HeaderNames.SetCookie] = ("With transport cookie: the token of the session.",
            "__Host-session=…; path=/; secure; samesite=lax; httponly"),
        [HeaderNames.WWWAuthenticate] = ("How to authenticate.", "Bearer"),
    };

    public void Apply(Document swaggerDoc, DocumentFilterContext context)
    {
        var components = swaggerDoc.Components ??= new();
        components.Headers ??= new Dictionary<string, IOpenApiHeader>();
        foreach (var (name, (description, example)) in Headers)
        {
            components.Headers[name] = new OpenApiHeader
            {
                Description = description,
                Schema = new OpenApiSchema
                {
                    Type = example.GetValueKind() is JsonValueKind.Number ? JsonSchemaType.Integer : JsonSchemaType.String,
                },
                Example = example.DeepClone(),
            };
        }

        var endpoints = context.ApiDescriptions.ToDictionary(
            description => description.ActionDescriptor.EndpointMetadata.OfType<IEndpointNameMetadata>().Last().EndpointName,
            description => description.ActionDescriptor.EndpointMetadata);
        foreach (var operation in swaggerDoc.Paths.Values.SelectMany(path => path.Operations!.Values))
        {
            Describe(operation, endpoints[operation.OperationId!], swaggerDoc);
        }
    }

    private static void Describe(OpenApiOperation operation, IList<object> metadata, Document document)
    {
        var responses = operation.Responses!;
        var isCached = responses.ContainsKey("304");
        if (isCached)
        {
            operation.Parameters ??= [];
            operation.Parameters.Add(new OpenApiParameter
            {
                Name = HeaderNames.IfNoneMatch,
                In = ParameterLocation.Header,
                Description = "The ETag of an earlier answer: if it is still current, the answer is 304 without a body.",
                Schema = new OpenApiSchema { Type = JsonSchemaType.String },
            });
        }

        operation.Responses = [];
        foreach (var (status, response) in responses.OrderBy(response => response.Key, StringComparer.Ordinal))
        {
            var headers = HeadersOf(int.Parse(status, CultureInfo.InvariantCulture), isCached, metadata);
            ((OpenApiResponse)response).Headers = headers.Distinct().Order(StringComparer.Ordinal).ToDictionary(
                name => name, IOpenApiHeader (name) => new OpenApiHeaderReference(name, document));
            operation.Responses.Add(status, response);
        }
    }

    private static IEnumerable<string> HeadersOf(int status, bool isCached, IList<object> metadata)
    {
        foreach (var header in metadata.OfType<AnswerHeader>().Where(header => header.Statuses.Contains(status)))
        {
            yield return header.Name;
        }

        if (isCached && status is 200 or 304)
        {
            yield return HeaderNames.ETag;
        }

        var isEntry = isCached && status is 200 or 304 or 404;
        if (isEntry)
        {
            yield return HeaderNames.Age;
            yield return HeaderNames.CacheControl;
        }

        var isPublic = metadata.OfType<CachedRoute>().Any();
        if (isEntry || (isPublic && status is 503))
        {
            yield return CacheStatus;
        }

        // See RequestLimits: a publicly cacheable answer has none of these.
        if (metadata.OfType<RateLimit>().Any() && !(isEntry && isPublic))
        {
            yield return Limit;
            yield return LimitPolicy;
        }

        if (StatusHeader(status) is { } other)
        {
            yield return other;
        }
    }

    private static string? StatusHeader(int status) => status switch
    {
        201 or 202 => HeaderNames.Location,
        401 => HeaderNames.WWWAuthenticate,
        429 or 503 => HeaderNames.RetryAfter,
        _ => null,
    };
}
