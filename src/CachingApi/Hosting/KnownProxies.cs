using System.ComponentModel.DataAnnotations;
using System.Net;
using Microsoft.AspNetCore.HttpOverrides;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.Options;
using IPNetwork = System.Net.IPNetwork;

namespace CachingApi.Hosting;

/// <summary>The network in front of the service: the section <c>Network</c>.</summary>
internal sealed class NetworkOptions : IValidatableObject
{
    /// <summary>The proxies whose forwarded headers are trusted: addresses, or networks such as <c>10.0.0.0/8</c>.</summary>
    public string[] KnownProxies { get; init; } = [];

    /// <summary>The maximum number of open connections of a process, which closes further ones at once.</summary>
    [Range(1, 1_000_000)]
    public int MaxConnections { get; init; } = 10_000;

    /// <summary>How long a connection stays open without a request.</summary>
    [Range(typeof(TimeSpan), "00:00:01", "01:00:00")]
    public TimeSpan KeepAlive { get; init; } = TimeSpan.FromMinutes(1);

    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext) =>
        KnownProxies.Where(proxy => Parse(proxy) is null).Select(proxy =>
            new ValidationResult($"'{proxy}' is neither an address nor a network such as 10.0.0.0/8", [nameof(KnownProxies)]));

    public static IPNetwork? Parse(string proxy) =>
        IPNetwork.TryParse(proxy, out var network) ? network
        : IPAddress.TryParse(proxy, out var address) ? new IPNetwork(address, address.GetAddressBytes().Length * 8)
        : null;
}

/// <summary>
/// Takes a client's address and scheme from <c>X-Forwarded-For</c> and <c>X-Forwarded-Proto</c>, as far back as each hop is a known proxy.
/// It ignores these headers from any other client.
/// </summary>
internal static class KnownProxies
{
    public static IServiceCollection AddKnownProxies(this IServiceCollection services)
    {
        services.AddValidatedOptions<NetworkOptions>("Network");
        services.AddHostedService<ConnectionLimits>();
        services.AddOptions<ForwardedHeadersOptions>().Configure<IOptions<NetworkOptions>>((headers, network) =>
        {
            headers.ForwardedHeaders = ForwardedHeaders.XForwardedFor | ForwardedHeaders.XForwardedProto;
            headers.ForwardLimit = null;
            headers.KnownProxies.Clear(); // by default, the framework trusts this machine
            headers.KnownIPNetworks.Clear();
            foreach (var proxy in network.Value.KnownProxies)
            {
                headers.KnownIPNetworks.Add(NetworkOptions.Parse(proxy)!.Value);
            }

            // If no proxy is known, the framework would trust every client.
            if (network.Value.KnownProxies.Length == 0)
            {
                headers.ForwardedHeaders = ForwardedHeaders.None;
            }
        });
        return services;
    }

    public static WebApplication UseKnownProxies(this WebApplication app)
    {
        app.UseForwardedHeaders();
        return app;
    }

    /// <summary>Limits the server's connections at start, because the options are validated after the server is built.</summary>
    private sealed class ConnectionLimits(IOptions<KestrelServerOptions> kestrel, IOptions<NetworkOptions> network) : IHostedService
    {
        public Task StartAsync(CancellationToken cancellationToken)
        {
            kestrel.Value.Limits.MaxConcurrentConnections = network.Value.MaxConnections;
            kestrel.Value.Limits.KeepAliveTimeout = network.Value.KeepAlive;
            return Task.CompletedTask;
        }

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }
}
