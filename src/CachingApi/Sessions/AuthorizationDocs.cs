using System.Text.Json.Nodes;
using CachingApi.Hosting;
using Microsoft.AspNetCore.Authorization;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.SwaggerGen;

namespace CachingApi.Sessions;

/// <summary>Documents which sessions each operation needs, and how it answers requests without one.</summary>
internal sealed class AuthorizationDocs : IOperationFilter
{
    public void Apply(OpenApiOperation operation, OperationFilterContext context)
    {
        var metadata = context.ApiDescription.ActionDescriptor.EndpointMetadata;
        var policy = metadata.OfType<IAllowAnonymous>().Any() ? null : metadata.OfType<IAuthorizeData>().LastOrDefault()?.Policy;
        operation.Description = $"{Caller.Describe(policy)} {operation.Description}".TrimEnd();
        operation.Security = [];
        if (policy is not null)
        {
            operation.Security.Add(new() { [new OpenApiSecuritySchemeReference("bearer", context.Document)] = [] });
            operation.Security.Add(new() { [new OpenApiSecuritySchemeReference("cookie", context.Document)] = [] });
            ApiDocs.AddProblems(operation, context, 401, 403, 503);
        }
    }
}

/// <summary>
/// Shows a login by bearer token: an example in the comments has no effect on a property whose type has a schema of its own.
/// </summary>
internal sealed class LoginExample : ISchemaFilter
{
    public void Apply(IOpenApiSchema schema, SchemaFilterContext context)
    {
        if (context.Type == typeof(CreateSession) && schema.Properties is { } properties
            && properties.TryGetValue("transport", out var value) && value is OpenApiSchema transport)
        {
            transport.Examples = [JsonValue.Create("bearer")];
        }
    }
}
