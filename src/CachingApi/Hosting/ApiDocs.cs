using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Mvc;
using Microsoft.AspNetCore.WebUtilities;
using Microsoft.Extensions.Options;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.SwaggerGen;

namespace CachingApi.Hosting;

/// <summary>The section <c>Swagger</c>.</summary>
internal sealed class SwaggerOptions
{
    /// <summary>Whether there are the OpenAPI document and Swagger UI.</summary>
    public bool Enabled { get; init; } = true;
}

/// <summary>Swagger: the document is made of the routes, their types and the comments in the source.</summary>
internal static class ApiDocs
{
    public static IServiceCollection AddApiDocs(this IServiceCollection services)
    {
        services.AddValidatedOptions<SwaggerOptions>("Swagger");
        services.AddSingleton<OpenApiDocument>();
        services.AddEndpointsApiExplorer();
        return services.AddSwaggerGen(docs =>
        {
            docs.SwaggerDoc("v1", new()
            {
                Title = "CachingApi",
                Version = "v1",
                Description = "Users, sessions, the weather and rate limits, with every caching pattern done in the open. "
                    + "Try it: POST /sessions with transport \"bearer\", then Authorize with the token.",
            });
            docs.SupportNonNullableReferenceTypes();
            docs.NonNullableReferenceTypesAsRequired();
            docs.IncludeXmlComments(Path.Combine(AppContext.BaseDirectory, $"{Assembly.GetExecutingAssembly().GetName().Name}.xml"));
            docs.OperationFilter<RequestDocs>();
            docs.OperationFilter<AuthorizationDocs>();
            docs.SchemaFilter<NullableReferences>();
            docs.MapType<JsonNode>(() => new OpenApiSchema()); // any JSON
        });
    }

    public static WebApplication UseApiDocs(this WebApplication app)
    {
        var options = app.Services.GetRequiredService<IOptions<SwaggerOptions>>();
        app.UseWhen(
            context => context.GetEndpoint() is null && options.Value.Enabled
                && HttpMethods.IsGet(context.Request.Method) && context.Request.Path.StartsWithSegments("/swagger"),
            swagger => swagger
                .UseWhen(
                    context => context.Request.Path == OpenApiDocument.Path,
                    document => document.Run(context => context.RequestServices.GetRequiredService<OpenApiDocument>().WriteAsync(context)))
                .UseSwaggerUI(ui => ui.DocumentTitle = "CachingApi"));
        return app;
    }

    /// <summary>Documents the problems that an endpoint answers.</summary>
    public static TBuilder ProducesProblems<TBuilder>(this TBuilder endpoint, params int[] statuses)
        where TBuilder : IEndpointConventionBuilder
    {
        foreach (var status in statuses)
        {
            endpoint.ProducesProblem(status);
        }

        return endpoint;
    }

    /// <summary>Says of each operation who may call it, and how it answers the others; answers in the order of their status.</summary>
    private sealed class AuthorizationDocs : IOperationFilter
    {
        public void Apply(OpenApiOperation operation, OperationFilterContext context)
        {
            var responses = operation.Responses ??= [];
            var metadata = context.ApiDescription.ActionDescriptor.EndpointMetadata;
            if (!metadata.OfType<IAllowAnonymous>().Any() && metadata.OfType<IAuthorizeData>().LastOrDefault() is { } authorize)
            {
                operation.Description = $"For: {authorize.Policy}. {operation.Description}".TrimEnd();
                operation.Security =
                [
                    new() { [new OpenApiSecuritySchemeReference("bearer", context.Document)] = [] },
                    new() { [new OpenApiSecuritySchemeReference("cookie", context.Document)] = [] },
                ];
                AddProblems(responses, context, 401, 403, 503);
            }

            operation.Responses = [];
            foreach (var (status, response) in responses.OrderBy(response => response.Key, StringComparer.Ordinal))
            {
                operation.Responses.Add(status, response);
            }
        }

    }

    /// <summary>Documents how requests are refused before an endpoint: bodies that cannot be read, and changes from other sites.</summary>
    private sealed class RequestDocs : IOperationFilter
    {
        public void Apply(OpenApiOperation operation, OperationFilterContext context)
        {
            var responses = operation.Responses ??= [];
            if (operation.RequestBody is not null)
            {
                AddProblems(responses, context, 400, 413, 415);
            }

            if (context.ApiDescription.HttpMethod is not "GET")
            {
                AddProblems(responses, context, 403);
            }
        }
    }

    /// <summary>A property that refers to another schema and may be <c>null</c> says so.</summary>
    private sealed class NullableReferences : ISchemaFilter
    {
        public void Apply(IOpenApiSchema schema, SchemaFilterContext context)
        {
            if (schema is not OpenApiSchema { Properties: { } properties })
            {
                return;
            }

            var nullability = new NullabilityInfoContext();
            var nullable = context.Type.GetProperties()
                .Where(property => nullability.Create(property).ReadState is NullabilityState.Nullable);
            foreach (var property in nullable)
            {
                var name = JsonNamingPolicy.CamelCase.ConvertName(property.Name);
                if (properties.TryGetValue(name, out var value) && value is OpenApiSchemaReference reference)
                {
                    properties[name] = new OpenApiSchema
                    {
                        Description = reference.Description,
                        OneOf =
                        [
                            new OpenApiSchema { Type = JsonSchemaType.Null },
                            new OpenApiSchemaReference(reference.Reference.Id!, reference.Reference.HostDocument),
                        ],
                    };
                }
            }
        }
    }

    private static void AddProblems(OpenApiResponses responses, OperationFilterContext context, params int[] statuses)
    {
        var schema = context.SchemaGenerator.GenerateSchema(typeof(ProblemDetails), context.SchemaRepository);
        var problem = new OpenApiMediaType { Schema = schema };
        foreach (var status in statuses)
        {
            responses.TryAdd(status.ToString(CultureInfo.InvariantCulture), new OpenApiResponse
            {
                Description = ReasonPhrases.GetReasonPhrase(status),
                Content = new Dictionary<string, IOpenApiMediaType> { ["application/problem+json"] = problem },
            });
        }
    }
}
