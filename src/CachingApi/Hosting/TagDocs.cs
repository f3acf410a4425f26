using System.Text.RegularExpressions;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.SwaggerGen;
using Document = Microsoft.OpenApi.OpenApiDocument;

namespace CachingApi.Hosting;

/// <summary>Describes the groups of operations, in the order in which a newcomer meets them.</summary>
internal sealed partial class TagDocs : IDocumentFilter
{
    private static readonly (string Name, string Description)[] Tags =
    [
        ("Sessions", "Log in first, as the administrator of the example or as a user that you have created. Sessions are never cached "
            + "outside the service."),
        ("Users", "Create, read, change and delete users. A read shows in Cache-Status whether it was a hit, and a write chooses its "
            + "strategy."),
        ("Weather", "The weather in a city, from Open-Meteo: one entry for all spellings, and a stale one while the source is down."),
        ("Limits", "Lists the rate limits. The policies demo-* exist to be tried."),
        ("Cache", "For administrators: statistics, inspection, eviction and warming of the caches, and the writes that could not be "
            + "persisted."),
        ("Lab", "For administrators: the experiments of the live page. They exist in Development, and elsewhere if Lab:Enabled is set."),
    ];

    public void Apply(Document swaggerDoc, DocumentFilterContext context)
    {
        // The lab may be turned off.
        var used = swaggerDoc.Paths.Values.SelectMany(path => path.Operations!.Values)
            .SelectMany(operation => operation.Tags ?? new HashSet<OpenApiTagReference>())
            .Select(tag => tag.Name)
            .ToHashSet();
        swaggerDoc.Tags = Tags.Where(tag => used.Contains(tag.Name))
            .Select(tag => new OpenApiTag { Name = tag.Name, Description = tag.Description })
            .ToHashSet();
        foreach (var operation in swaggerDoc.Paths.Values.SelectMany(path => path.Operations!.Values))
        {
            operation.Description = OneLine(operation.Description);
            foreach (var parameter in operation.Parameters ?? [])
            {
                parameter.Description = OneLine(parameter.Description);
            }
        }
    }

    /// <summary>Joins the lines of a comment in the source: their ends mean nothing in the document.</summary>
    private static string? OneLine(string? text) => text is null ? null : LineBreak().Replace(text, " ");

    [GeneratedRegex(@"\s*\n\s*")]
    private static partial Regex LineBreak();
}
