using CachingApi.RateLimiting;
using CachingApi.Redis;

namespace CachingApi.Sessions;

/// <summary>
/// Logs security events: name, outcome, the user's id, the session's id and the client's network; never an e-mail address, a password or
/// a token.
/// </summary>
internal sealed partial class SecurityEvents(ILogger<SecurityEvents> log)
{
    public const string Login = "login";
    public const string Logout = "logout";
    public const string Registration = "registration";
    public const string Reauthentication = "reauthentication";
    public const string PasswordChange = "password-change";
    public const string EmailChange = "email-change";
    public const string AccountDeletion = "account-deletion";
    public const string SessionRevocation = "session-revocation";
    public const string SessionRejection = "session-rejection";
    public const string AccessDenial = "access-denial";
    public const string CrossSiteRequest = "cross-site-request";
    public const string RoleChange = "role-change";
    public const string AdministratorAction = "administrator-action";

    /// <summary>Writes an event; the user and the session are those of the request, unless others are given.</summary>
    /// <param name="context">The request; <c>null</c> if the service acts by itself.</param>
    public void Write(string name, string outcome, HttpContext? context, Guid? userId = null, Guid? sessionId = null)
    {
        var session = context?.Features.Get<Session>();
        Log.Event(log, name, outcome, userId ?? session?.UserId, sessionId ?? session?.Id, Network(context));
    }

    /// <summary>Writes the outcome <c>unavailable</c> if an attempt could not be made because a server that it needs is away.</summary>
    public async Task<T> WatchAsync<T>(string name, HttpContext context, Func<Task<T>> attempt)
    {
        try
        {
            return await attempt();
        }
        catch (UnavailableException)
        {
            Write(name, "unavailable", context);
            throw;
        }
    }

    /// <summary>Writes an administrator's action: the route, and the user that it names, if it names one.</summary>
    public void WriteAction(HttpContext context, string outcome)
    {
        var session = context.Features.Get<Session>();
        var route = (context.GetEndpoint() as RouteEndpoint)?.RoutePattern.RawText?.TrimEnd('/');
        Guid? target = Guid.TryParse(context.GetRouteValue("id") as string, out var id) ? id : null;
        Log.Action(
            log, AdministratorAction, outcome, context.Request.Method, route, target, session?.UserId, session?.Id, Network(context));
    }

    private static string? Network(HttpContext? context) =>
        context is null ? null : Partition.NetworkOf(context.Connection.RemoteIpAddress);

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information,
            "Security event {SecurityEvent}: {Outcome}; user {UserId}, session {SessionId}, from {Network}")]
        public static partial void Event(ILogger log, string securityEvent, string outcome, Guid? userId, Guid? sessionId, string? network);

        [LoggerMessage(2, LogLevel.Information,
            "Security event {SecurityEvent}: {Outcome}; {Method} {Route} on {TargetId}; "
            + "user {UserId}, session {SessionId}, from {Network}")]
        public static partial void Action(
            ILogger log,
            string securityEvent,
            string outcome,
            string method,
            string? route,
            Guid? targetId,
            Guid? userId,
            Guid? sessionId,
            string? network);
    }
}
