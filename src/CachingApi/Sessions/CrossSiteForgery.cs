using Microsoft.AspNetCore.Authorization;

namespace CachingApi.Sessions;

/// <summary>
/// Rejects a state-changing request that a browser sends for another site, if the request has the session cookie or needs no session:
/// by <c>Sec-Fetch-Site</c>, or by <c>Origin</c> if the browser does not send that (OWASP, Cross-Site Request Forgery Prevention Cheat
/// Sheet).
/// </summary>
/// <remarks>
/// It also rejects a request that changes nothing but uses up its sender's permits (<see cref="SameSiteOnly"/>).
/// A request is exempt only if its session comes from a bearer token, because no browser adds that itself. Login and registration
/// are never exempt: a forged login would put the victim into the attacker's account, and both spend permits of the victim's address.
/// The check comes before the rate limits, so that a forged request spends no permits.
/// </remarks>
internal static class CrossSiteForgery
{
    public static IApplicationBuilder UseCrossSiteForgeryCheck(this IApplicationBuilder app) => app.Use(static async (context, next) =>
    {
        if (!IsChecked(context) || !CrossSite.IsSource(context.Request))
        {
            await next(context);
            return;
        }

        context.RequestServices.GetRequiredService<SecurityEvents>().Write(SecurityEvents.CrossSiteRequest, "denied", context);
        await Results.Problem(
            statusCode: StatusCodes.Status403Forbidden,
            detail: "A browser sent this request for another site.").ExecuteAsync(context);
    });

    private static bool IsChecked(HttpContext context)
    {
        var request = context.Request;
        if (HttpMethods.IsGet(request.Method) || HttpMethods.IsHead(request.Method) || HttpMethods.IsOptions(request.Method))
        {
            return context.GetEndpoint()?.Metadata.GetMetadata<SameSiteOnly>()?.Applies(context) == true;
        }

        return context.GetEndpoint()?.Metadata.GetMetadata<IAllowAnonymous>() is not null
            || (HasSessionCookie(request) && SessionAuthentication.TokenOf(request) is not { Transport: SessionTransport.Bearer });
    }

    /// <summary>In any letter case, also if there are several: a cookie that authentication does not accept counts, too.</summary>
    private static bool HasSessionCookie(HttpRequest request) =>
        request.Headers.Cookie.Any(header => header!.Contains(SessionAuthentication.CookieName, StringComparison.OrdinalIgnoreCase));
}
