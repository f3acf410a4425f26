namespace CachingApi.Sessions;

/// <summary>
/// Refuses a state-changing request that rides on the session cookie and comes from another site: by <c>Sec-Fetch-Site</c>,
/// or <c>Origin</c> where a browser does not send that (OWASP, Cross-Site Request Forgery Prevention Cheat Sheet).
/// </summary>
internal static class CrossSiteForgery
{
    public static IApplicationBuilder UseCrossSiteForgeryCheck(this IApplicationBuilder app) => app.Use(static async (context, next) =>
    {
        if (!IsForged(context.Request))
        {
            await next(context);
            return;
        }

        await Results.Problem(
            statusCode: StatusCodes.Status403Forbidden,
            detail: "A request that changes something must come from this site, or carry a bearer token.").ExecuteAsync(context);
    });

    private static bool IsForged(HttpRequest request)
    {
        if (HttpMethods.IsGet(request.Method) || HttpMethods.IsHead(request.Method) || HttpMethods.IsOptions(request.Method)
            || !request.Cookies.ContainsKey(SessionAuthentication.CookieName)
            || request.Headers.Authorization.Count > 0)
        {
            return false;
        }

        var site = request.Headers["Sec-Fetch-Site"].ToString();
        if (site.Length > 0)
        {
            return site is not ("same-origin" or "none");
        }

        // Neither header: no browser, so nobody was tricked into sending it.
        var origin = request.Headers.Origin.ToString();
        return origin.Length > 0 && !string.Equals(origin, $"{request.Scheme}://{request.Host}", StringComparison.OrdinalIgnoreCase);
    }
}
