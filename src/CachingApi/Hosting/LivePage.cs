namespace CachingApi.Hosting;

/// <summary>
/// The page at <c>/</c>, which draws <c>/cache/stats</c>: static files, shipped with the service and open to all, as it shows nothing
/// without an administrator's session. Like Swagger's pages it is not limited.
/// </summary>
internal static class LivePage
{
    /// <summary>
    /// Own scripts and styles only, nothing inline; asks this service only; makes no markup of text (Trusted Types), and sends no form.
    /// </summary>
    public const string ContentSecurityPolicy =
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

    public static bool Is(PathString path) => path.Value is "/" or "/index.html";

    public static WebApplication UseLivePage(this WebApplication app)
    {
        // Only for requests that no endpoint answers. Browsers ask again each time, by ETag, so that none shows an earlier build's page.
        app.UseWhen(static context => context.GetEndpoint() is null, static files => files
            .UseDefaultFiles()
            .UseStaticFiles(new StaticFileOptions { OnPrepareResponse = file => file.Context.Response.Headers.CacheControl = "no-cache" }));
        return app;
    }
}
