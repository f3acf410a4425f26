using System.ComponentModel.DataAnnotations;
using Microsoft.Extensions.Options;

namespace CachingApi.Hosting;

/// <summary>The section <c>Operations</c>.</summary>
internal sealed class OperationsOptions
{
    /// <summary>The port of <c>/metrics</c> and <c>/health/ready</c>; 0 if they are on the service's own port.</summary>
    [Range(0, 65535)]
    public int Port { get; init; }
}

/// <summary>Marks an endpoint for operators.</summary>
/// <param name="OnEveryPort">Whether the service's own port has the route, too, if there is a port for operations.</param>
internal sealed record OperationsRoute(bool OnEveryPort);

/// <summary>A port for operators only, so that a public proxy does not forward to the routes on it.</summary>
internal static class OperationsPort
{
    public static WebApplicationBuilder AddOperationsPort(this WebApplicationBuilder builder)
    {
        builder.Services.AddValidatedOptions<OperationsOptions>("Operations");
        if (!int.TryParse(builder.Configuration["Operations:Port"], out var port) || port is < 1 or > 65535)
        {
            return builder; // the validation reports a bad value
        }

        if (builder.Configuration.GetSection("Kestrel:Endpoints").Exists())
        {
            builder.WebHost.ConfigureKestrel(kestrel => kestrel.ListenAnyIP(port));
        }
        else
        {
            builder.WebHost.UseUrls([.. Urls(builder.Configuration), $"http://*:{port}"]);
        }

        return builder;
    }

    /// <summary>
    /// Answers 404 if the route is not on the port that received the request. The connection determines the port, because a client can send
    /// any <c>Host</c>.
    /// </summary>
    public static void UseOperationsPort(this WebApplication app)
    {
        var options = app.Services.GetRequiredService<IOptions<OperationsOptions>>();
        app.Use((context, next) =>
        {
            var port = options.Value.Port;
            var route = context.GetEndpoint()?.Metadata.GetMetadata<OperationsRoute>();
            var isHere = port == 0 || (context.Connection.LocalPort == port ? route is not null : route is not { OnEveryPort: false });
            return isHere ? next(context) : Results.Problem(statusCode: StatusCodes.Status404NotFound).ExecuteAsync(context);
        });
    }

    /// <summary>The addresses that the server would listen on without the port for operations, by the server's own rules.</summary>
    private static string[] Urls(ConfigurationManager configuration)
    {
        if (Split(configuration["urls"]) is { Length: > 0 } urls)
        {
            return urls;
        }

        string[] ports =
        [
            .. Split(configuration["http_ports"]).Select(port => $"http://*:{port}"),
            .. Split(configuration["https_ports"]).Select(port => $"https://*:{port}"),
        ];
        return ports.Length > 0 ? ports : ["http://localhost:5000"];
    }

    private static string[] Split(string? list) =>
        (list ?? "").Split(';', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
}
