namespace CachingApi.Hosting;

/// <summary>
/// The security headers of every answer (OWASP, HTTP Security Response Headers Cheat Sheet). Browsers do not sniff, frame or run JSON, nor
/// give it to other sites; the pages of Swagger run only the service's own scripts.
/// </summary>
internal static class SecurityHeaders
{
    private const string Nothing = "default-src 'none'; frame-ancestors 'none'";

    private const string OwnPages =
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        + "frame-ancestors 'none'";

    public static void UseSecurityHeaders(this WebApplication app) => app.Use(static (context, next) =>
    {
        // When the answer starts, because an error clears headers that were set before.
        context.Response.OnStarting(Describe, context);
        return next(context);
    });

    /// <summary>
    /// Answers 400 to a <c>Host</c> that is not a valid name (such as <c>xn--</c>). The framework throws when a later step reads it.
    /// </summary>
    public static void UseHostCheck(this WebApplication app) => app.Use(static (context, next) =>
    {
        try
        {
            _ = context.Request.Host;
        }
        catch (ArgumentException)
        {
            context.Request.Headers.Host = "";
            var problem = Results.Problem("The header Host is not a valid name.", statusCode: StatusCodes.Status400BadRequest);
            return problem.ExecuteAsync(context);
        }

        return next(context);
    });

    public static void UseStrictTransport(this WebApplication app)
    {
        if (!app.Environment.IsDevelopment())
        {
            app.UseHsts();
        }
    }

    private static Task Describe(object state)
    {
        var context = (HttpContext)state;
        var headers = context.Response.Headers;
        headers.XContentTypeOptions = "nosniff";
        if (context.Request.Path.StartsWithSegments("/cache"))
        {
            headers.CacheControl = "no-store";
        }

        headers.ContentSecurityPolicy =
            LivePage.Is(context.Request.Path) ? LivePage.ContentSecurityPolicy
            : context.Request.Path.StartsWithSegments("/swagger") ? OwnPages
            : Nothing;
        headers["Referrer-Policy"] = "no-referrer";
        headers["Cross-Origin-Resource-Policy"] = "same-origin";
        return Task.CompletedTask;
    }
}
