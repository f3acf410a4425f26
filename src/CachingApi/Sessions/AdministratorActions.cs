using Microsoft.AspNetCore.Authorization;

namespace CachingApi.Sessions;

internal static class AdministratorActions
{
    /// <summary>The live page reads these routes all the time, and they contain only numbers.</summary>
    private const string NotLogged = "/cache/stats";

    /// <summary>Logs each request that requires the role of an administrator.</summary>
    public static IApplicationBuilder UseAdministratorActionLog(this IApplicationBuilder app) => app.Use(static async (context, next) =>
    {
        if (!IsAction(context))
        {
            await next(context);
            return;
        }

        var events = context.RequestServices.GetRequiredService<SecurityEvents>();
        try
        {
            await next(context);
        }
        catch
        {
            events.WriteAction(context, "error");
            throw;
        }

        events.WriteAction(context, context.Response.StatusCode < StatusCodes.Status400BadRequest ? "success" : "failure");
    });

    private static bool IsAction(HttpContext context) =>
        context.User.IsInRole(Caller.AdminRole)
        && context.GetEndpoint() is RouteEndpoint endpoint
        && endpoint.RoutePattern.RawText?.StartsWith(NotLogged, StringComparison.Ordinal) != true
        && endpoint.Metadata.GetMetadata<IAuthorizeData>()?.Policy switch
        {
            Caller.Admin => true,
            Caller.SelfOrAdmin => !Caller.IsSelf(context.User, context),
            _ => false,
        };
}
