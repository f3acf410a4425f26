using System.Reflection;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Mvc;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.SwaggerGen;

namespace CachingApi.Hosting;

/// <summary>Swagger: the document is made of the routes, their types and the comments in the source.</summary>
internal static class ApiDocs
{
    public static IServiceCollection AddApiDocs(this IServiceCollection services)
    {
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
            docs.OperationFilter<AuthorizationDocs>();
        });
    }

    public static WebApplication UseApiDocs(this WebApplication app)
    {
        app.UseSwagger(swagger => swagger.OpenApiVersion = OpenApiSpecVersion.OpenApi3_1);
        app.UseSwaggerUI(ui => ui.DocumentTitle = "CachingApi");
        return app;
    }

    /// <summary>Documents the problems that an endpoint answers.</summary>
    public static TBuilder ProducesProblems<TBuilder>(this TBuilder endpoint, params int[] statuses) where TBuilder : IEndpointConventionBuilder
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
                var problem = context.SchemaGenerator.GenerateSchema(typeof(ProblemDetails), context.SchemaRepository);
                responses.TryAdd("401", Problem("Unauthorized", problem));
                responses.TryAdd("403", Problem("Forbidden", problem));
                responses.TryAdd("503", Problem("Service Unavailable", problem));
            }

            operation.Responses = [];
            foreach (var (status, response) in responses.OrderBy(response => response.Key, StringComparer.Ordinal))
            {
                operation.Responses.Add(status, response);
            }
        }

        private static OpenApiResponse Problem(string description, IOpenApiSchema schema) => new()
        {
            Description = description,
            Content = new Dictionary<string, IOpenApiMediaType> { ["application/problem+json"] = new OpenApiMediaType { Schema = schema } },
        };
    }
}
