using System.Net.Mime;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Benchmarks;

/// <summary>
/// An endpoint that only sends as many bytes as an answer of the service has: the upper bound of Kestrel's throughput.
/// </summary>
internal static class BareService
{
    public static async Task RunAsync(string url)
    {
        var builder = WebApplication.CreateEmptyBuilder(new());
        builder.WebHost.UseKestrelCore().UseUrls(url);
        builder.Services.AddRouting();
        var app = builder.Build();
        var bodies = Enumerable.Range(0, 4096).Select(length => new byte[length]).ToArray();
        app.MapGet("/bytes/{length:int}", (int length, HttpContext context) =>
        {
            context.Response.ContentType = MediaTypeNames.Application.Json;
            context.Response.ContentLength = length;
            return context.Response.Body.WriteAsync(bodies[length]).AsTask();
        });
        await app.RunAsync();
    }
}
