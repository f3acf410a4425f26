using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Mvc;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.SwaggerGen;
using Document = Microsoft.OpenApi.OpenApiDocument;

namespace CachingApi.Hosting;

/// <summary>Describes the members that every problem of the service has, and gives all problems one example.</summary>
internal sealed class ProblemDocs : IDocumentFilter
{
    private const string Example = """
        {
          "type": "https://www.rfc-editor.org/rfc/rfc9110#section-15.5.1",
          "title": "Bad Request",
          "status": 400,
          "detail": "The request is not valid; see errors.",
          "errors": { "strategy": ["One of write-through, invalidate, write-behind."] },
          "traceId": "0af7651916cd43dd8448eb211c80319c"
        }
        """;

    public void Apply(Document swaggerDoc, DocumentFilterContext context)
    {
        var components = swaggerDoc.Components ??= new();
        components.Schemas ??= new Dictionary<string, IOpenApiSchema>();
        components.Schemas[nameof(ProblemDetails)] = Schema();
        components.Examples ??= new Dictionary<string, IOpenApiExample>();
        components.Examples["Problem"] = new OpenApiExample
        {
            Summary = "A parameter with a value that is not allowed",
            Value = JsonNode.Parse(Example),
        };
        var problems = swaggerDoc.Paths.Values.SelectMany(path => path.Operations!.Values)
            .SelectMany(operation => operation.Responses!.Values)
            .SelectMany(response => response.Content ?? new Dictionary<string, IOpenApiMediaType>())
            .Where(content => content.Key is "application/problem+json")
            .Select(content => content.Value)
            .OfType<OpenApiMediaType>();
        foreach (var problem in problems)
        {
            problem.Examples = new Dictionary<string, IOpenApiExample> { ["problem"] = new OpenApiExampleReference("Problem", swaggerDoc) };
        }
    }

    private static OpenApiSchema Schema() => new()
    {
        Type = JsonSchemaType.Object,
        Description = "A problem (RFC 9457). Some problems have further members.",
        Required = new HashSet<string> { "type", "title", "status", "detail", "traceId" },
        Properties = new Dictionary<string, IOpenApiSchema>
        {
            ["type"] = Text("Names the kind of problem."),
            ["title"] = Text("The kind of problem in words."),
            ["status"] = new OpenApiSchema { Type = JsonSchemaType.Integer, Format = "int32", Description = "The status of the answer." },
            ["detail"] = Text("Names the error of this request."),
            ["errors"] = new OpenApiSchema
            {
                Type = JsonSchemaType.Object,
                Description = "For each field or parameter that is not valid: the values that it may have.",
                AdditionalProperties = new OpenApiSchema
                {
                    Type = JsonSchemaType.Array,
                    Items = new OpenApiSchema { Type = JsonSchemaType.String },
                },
            },
            ["traceId"] = Text("Finds the request in the log and in traces."),
        },
    };

    private static OpenApiSchema Text(string description) => new() { Type = JsonSchemaType.String, Description = description };
}
