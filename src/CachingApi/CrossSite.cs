using System.Net;
using Microsoft.AspNetCore.HostFiltering;
using Microsoft.Extensions.Options;

namespace CachingApi;

/// <summary>In an endpoint's metadata: requests that browsers send for other sites are refused, even if they change nothing.</summary>
/// <param name="Applies">Whether a request is one of those.</param>
internal sealed record SameSiteOnly(Func<HttpContext, bool> Applies);

/// <summary>Recognises requests that a browser sends because of another site's page.</summary>
internal static class CrossSite
{
    /// <summary>Whether <c>Sec-Fetch-Site</c>, or without it <c>Origin</c>, names another site. Only browsers send these headers.</summary>
    /// <remarks>
    /// An <c>Origin</c> that equals the request's <c>Host</c> may still be another site's (DNS rebinding): 1. a page of
    /// <c>http://attacker.example</c> is open in a browser; 2. its name is changed to 127.0.0.1; 3. the page's requests come to this
    /// service, with both headers equal. Over https, the certificate prevents that; over http, browsers send no <c>Sec-Fetch-Site</c> to
    /// such a name. So over http, every name except localhost counts as another site's, unless <c>AllowedHosts</c> lists this service's
    /// names.
    /// </remarks>
    public static bool IsSource(HttpRequest request)
    {
        var site = request.Headers["Sec-Fetch-Site"].ToString();
        if (site.Length > 0)
        {
            return site is not ("same-origin" or "none");
        }

        var origin = request.Headers.Origin.ToString();
        return origin.Length > 0
            && (!string.Equals(origin, $"{request.Scheme}://{request.Host}", StringComparison.OrdinalIgnoreCase) || MayBeRebound(request));
    }

    /// <summary>
    /// Whether a browser navigates to the address, for example because its user has followed a link, and shows the answer as a page.
    /// </summary>
    public static bool IsNavigation(HttpRequest request) =>
        request.Headers["Sec-Fetch-Mode"] == "navigate"
        && request.Headers["Sec-Fetch-Dest"] == "document"
        && request.Headers["Sec-Fetch-User"] == "?1"
        && request.Headers["Sec-Purpose"].ToString().Length == 0; // a prefetch

    /// <summary>
    /// Refuses requests that browsers send for other sites, such as images, because a request uses up the sender's permits.
    /// </summary>
    public static TBuilder RefuseOtherSites<TBuilder>(this TBuilder endpoint, Func<HttpContext, bool> applies)
        where TBuilder : IEndpointConventionBuilder =>
        endpoint.WithMetadata(new SameSiteOnly(applies)).ProducesProblem(StatusCodes.Status403Forbidden);

    private static bool MayBeRebound(HttpRequest request)
    {
        var host = request.Host.Host;
        return !request.IsHttps
            && !host.Equals("localhost", StringComparison.OrdinalIgnoreCase)
            && !IPAddress.TryParse(host, out _)
            && !host.EndsWith(".localhost", StringComparison.OrdinalIgnoreCase)
            // If hosts are listed, the framework has already refused all others.
            && request.HttpContext.RequestServices.GetRequiredService<IOptions<HostFilteringOptions>>().Value.AllowedHosts is var hosts
            && (hosts.Count == 0 || hosts.Any(name => name is "*" or "[::]" or "0.0.0.0"));
    }
}
