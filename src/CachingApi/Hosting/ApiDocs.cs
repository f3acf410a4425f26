using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Mvc;
using Microsoft.AspNetCore.WebUtilities;
using Microsoft.Extensions.Options;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.SwaggerGen;

namespace CachingApi.Hosting;

/// <summary>The section <c>Swagger</c>.</summary>
internal sealed class SwaggerOptions
{
    /// <summary>Whether the service has the OpenAPI document and Swagger UI.</summary>
    public bool Enabled { get; init; } = true;
}

/// <summary>A header of an endpoint's answers, in its metadata.</summary>
internal sealed record AnswerHeader(string Name, int[] Statuses);

/// <summary>Swagger: the document is generated from the routes, their types and the comments in the source.</summary>
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
                Description = "Users, sessions, the weather and rate limits. The headers of each answer show which cache answered. "
                    + "Try it: POST /sessions with transport \"bearer\", then Authorize with the token.",
                Contact = new() { Name = "The CachingApi authors" },
                License = new() { Name = "MIT", Identifier = "MIT" },
            });
            docs.AddServer(new() { Url = "/", Description = "The service that has sent this document." });
            docs.SupportNonNullableReferenceTypes();
            docs.NonNullableReferenceTypesAsRequired();
            docs.IncludeXmlComments(Path.Combine(AppContext.BaseDirectory, $"{Assembly.GetExecutingAssembly().GetName().Name}.xml"));
            docs.OperationFilter<RequestDocs>();
            docs.ParameterFilter<ParameterDocs>();
            docs.SchemaFilter<NullableReferences>();
            docs.DocumentFilter<TagDocs>();
            docs.DocumentFilter<ProblemDocs>();
            docs.DocumentFilter<HeaderDocs>();
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
                .UseSwaggerUI(ui =>
                {
                    ui.DocumentTitle = "CachingApi";
                    ui.DefaultModelsExpandDepth(0); // a list of names
                }));
        return app;
    }

    /// <summary>Documents a header that the answers of these statuses have.</summary>
    public static TBuilder ProducesHeader<TBuilder>(this TBuilder endpoint, string name, params int[] statuses)
        where TBuilder : IEndpointConventionBuilder =>
        endpoint.WithMetadata(new AnswerHeader(name, statuses));

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

    /// <summary>Documents how requests are refused before an endpoint: bodies that cannot be read, and changes from other sites.</summary>
    private sealed class RequestDocs : IOperationFilter
    {
        public void Apply(OpenApiOperation operation, OperationFilterContext context)
        {
            if (operation.RequestBody is not null)
            {
                AddProblems(operation, context, 400, 413, 415);
            }

            if (context.ApiDescription.HttpMethod is not "GET")
            {
                AddProblems(operation, context, 403);
            }
        }
    }

    /// <summary>Documents the values of a parameter that allows only some.</summary>
    private sealed class ParameterDocs : IParameterFilter
    {
        public void Apply(IOpenApiParameter parameter, ParameterFilterContext context)
        {
            if (parameter.Schema is OpenApiSchema schema
                && context.ParameterInfo?.GetCustomAttribute<AllowedValuesAttribute>() is { Values: var values })
            {
                schema.Enum = [.. values.OfType<string>().Select(value => JsonValue.Create(value))];
            }
        }
    }

    /// <summary>Documents that a property that refers to another schema may be <c>null</c>.</summary>
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

    /// <summary>Adds to an operation the problems that it does not document yet.</summary>
    public static void AddProblems(OpenApiOperation operation, OperationFilterContext context, params int[] statuses)
    {
        var responses = operation.Responses ??= [];
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
