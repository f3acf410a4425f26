using System.IO.Hashing;
using Microsoft.Net.Http.Headers;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.Swagger;

namespace CachingApi.Hosting;

/// <summary>The OpenAPI document. It is generated once, because the routes of a process do not change.</summary>
internal sealed class OpenApiDocument(IServiceProvider services)
{
    public const string Path = "/swagger/v1/swagger.json";

    private readonly Lazy<Task<(byte[] Json, EntityTagHeaderValue ETag)>> _document = new(() => GenerateAsync(services));

    public async Task<byte[]> JsonAsync() => (await _document.Value).Json;

    /// <summary>Writes the document, or 304 if the client has it.</summary>
    public async Task WriteAsync(HttpContext context)
    {
        var (json, etag) = await _document.Value;
        context.Response.Headers.CacheControl = "public, max-age=300";
        await Results.Bytes(json, "application/json; charset=utf-8", entityTag: etag).ExecuteAsync(context);
    }

    private static async Task<(byte[] Json, EntityTagHeaderValue ETag)> GenerateAsync(IServiceProvider services)
    {
        using var scope = services.CreateScope();
        var document = scope.ServiceProvider.GetRequiredService<ISwaggerProvider>().GetSwagger("v1");
        using var json = new MemoryStream();
        await document.SerializeAsJsonAsync(json, OpenApiSpecVersion.OpenApi3_1);
        var bytes = json.ToArray();
        return (bytes, new($"\"{XxHash128.HashToUInt128(bytes):x32}\""));
    }
}
