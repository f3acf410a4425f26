using System.Security.Claims;
using Microsoft.AspNetCore.Authorization;

namespace CachingApi.Sessions;

/// <summary>The caller's identity and rights: the authorization policies.</summary>
internal static class Caller
{
    public const string UserIdClaim = "sub";
    public const string RoleClaim = "role";
    public const string AdminRole = "admin";

    /// <summary>Any user with a session.</summary>
    public const string Anyone = "Session";

    /// <summary>Administrators.</summary>
    public const string Admin = "Admin";

    /// <summary>The user that the route's <c>id</c> names.</summary>
    public const string Self = "Self";

    /// <summary>The user that the route's <c>id</c> names, and administrators.</summary>
    public const string SelfOrAdmin = "SelfOrAdmin";

    /// <summary>Says in a sentence which callers a policy admits; <c>null</c> is no policy.</summary>
    public static string Describe(string? policy) => policy switch
    {
        null => "Needs no session.",
        Anyone => "Needs a session.",
        Admin => "Needs an administrator's session.",
        Self => "Needs a session of the user with this id.",
        SelfOrAdmin => "Needs a session of the user with this id, or an administrator's.",
        _ => throw new ArgumentOutOfRangeException(nameof(policy), policy, "A new policy has no description yet."),
    };

    public static void AddPolicies(AuthorizationOptions options)
    {
        options.AddPolicy(Anyone, policy => policy.RequireAuthenticatedUser());
        options.AddPolicy(Admin, policy => policy.RequireAuthenticatedUser().RequireRole(AdminRole));
        options.AddPolicy(Self, policy => policy.RequireAuthenticatedUser().RequireAssertion(IsSelf));
        options.AddPolicy(SelfOrAdmin, policy => policy.RequireAuthenticatedUser().RequireAssertion(context =>
            context.User.IsInRole(AdminRole) || IsSelf(context)));
    }

    /// <summary>Whether the route's <c>id</c> names the user.</summary>
    public static bool IsSelf(ClaimsPrincipal user, HttpContext http) =>
        Guid.TryParse(user.FindFirstValue(UserIdClaim), out var self)
        && Guid.TryParse(http.GetRouteValue("id") as string, out var named)
        && self == named;

    private static bool IsSelf(AuthorizationHandlerContext context) => context.Resource is HttpContext http && IsSelf(context.User, http);
}
