using System.Text.Json.Serialization;

namespace CachingApi.Hosting;

/// <summary>
/// The page at <c>/</c>, which draws <c>/cache/stats</c>. Its static files are public, because the page shows no data without an
/// administrator's session. Like Swagger's pages, it has no rate limit.
/// </summary>
internal static class LivePage
{
    /// <summary>
    /// Only the service's own scripts and styles, none inline; requests only to this service; no markup from text (Trusted Types); no
    /// forms.
    /// </summary>
    public const string ContentSecurityPolicy =
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

    public static bool Is(PathString path) => path.Value is "/" or "/index.html";

    /// <summary>The password of <c>./dev run</c>, which the README names.</summary>
    private const string DevelopmentPassword = "development-only";

    public static WebApplication UseLivePage(this WebApplication app)
    {
        // Only for requests without an endpoint. Browsers revalidate by ETag each time, so that none shows an earlier build's page.
        app.UseWhen(static context => context.GetEndpoint() is null, static files => files
            .UseDefaultFiles()
            .UseStaticFiles(new StaticFileOptions { OnPrepareResponse = file => file.Context.Response.Headers.CacheControl = "no-cache" }));
        return app;
    }

    /// <summary>
    /// <c>/development-login</c>: the administrator's login for the form, in Development, if the password is the one that the README names.
    /// Otherwise the answer is 204.
    /// </summary>
    public static void MapDevelopmentLogin(this WebApplication app)
    {
        var admin = app.Configuration.GetSection("Admin");
        var isKnown = app.Environment.IsDevelopment() && admin["Password"] is DevelopmentPassword;
        app.MapMethods("/development-login", ["GET"], context => isKnown
                ? context.Response.WriteAsJsonAsync(
                    new() { ["email"] = admin["Email"]!, ["password"] = DevelopmentPassword },
                    LivePageJson.Default.DictionaryStringString,
                    contentType: null,
                    context.RequestAborted)
                : NoContent(context))
            .AllowAnonymous().ExcludeFromDescription();

        static Task NoContent(HttpContext context)
        {
            context.Response.StatusCode = StatusCodes.Status204NoContent;
            return Task.CompletedTask;
        }
    }
}

[JsonSerializable(typeof(Dictionary<string, string>))]
internal sealed partial class LivePageJson : JsonSerializerContext;
