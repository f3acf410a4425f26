using System.Text.Json;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Http.HttpResults;
using HeaderNames = Microsoft.Net.Http.Headers.HeaderNames;

namespace CachingApi.Sessions;

internal static class SessionEndpoints
{
    private const string SessionLimit = "session";

    public static void MapSessions(this IEndpointRouteBuilder routes)
    {
        var sessions = routes.MapGroup("/sessions").WithTags("Sessions").RequireAuthorization(Caller.Anyone)
            .ProducesProblems(StatusCodes.Status503ServiceUnavailable).AddEndpointFilter(NotStored);

        sessions.MapPost("/", LogIn).WithName("logIn").AllowAnonymous()
            .RequireRateLimit("login").RequireRateLimit("login-network").RequireRateLimit("login-account", account: AccountAsync)
            .ProducesHeader(HeaderNames.SetCookie, StatusCodes.Status201Created)
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status401Unauthorized);
        // Each session has its own permits here, so that the thief of a session cannot keep the owner from ending it.
        sessions.MapGet("/", List).WithName("listSessions").RequireRateLimit(SessionLimit);
        sessions.MapDelete("/", EndOthers).WithName("endOtherSessions").RequireRateLimit(SessionLimit);
        sessions.MapGet("/current", Current).WithName("getCurrentSession").RequireRateLimit("default");
        sessions.MapDelete("/current", LogOut).WithName("logOut").RequireRateLimit(SessionLimit);
        sessions.MapPost("/current/reauthentication", Reauthenticate).WithName("reauthenticate")
            .RequireRateLimit(SessionLimit).DeferRateLimit(RecentAuthentication.Policy)
            .ProducesProblems(StatusCodes.Status400BadRequest);
        sessions.MapDelete("/{id}", End).WithName("endSession").RequireRateLimit(SessionLimit)
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status404NotFound);

        routes.MapPut("/users/{id}/password", ChangePassword).WithName("changePassword").WithTags("Users").RequireAuthorization(Caller.Self)
            .RequireRateLimit(SessionLimit).DeferRateLimit(RecentAuthentication.Policy)
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status503ServiceUnavailable).AddEndpointFilter(NotStored);
    }

    /// <summary>Logs in.</summary>
    /// <remarks>
    /// With <c>transport: "cookie"</c>, the answer sets the token as the cookie <c>__Host-session</c>, which browsers accept only over
    /// https and on localhost. With <c>"bearer"</c>, the token is in the body. If the request has a session, that session ends. The first
    /// login by cookie also sets <c>__Host-device</c>: with it, wrong passwords of other clients do not delay this browser's logins.
    /// </remarks>
    internal static async Task<Results<Created<NewSession>, ProblemHttpResult>> LogIn(
        CreateSession credentials, HttpContext context, SessionService sessions, SecurityEvents events, CancellationToken cancel)
    {
        var request = context.Request;
        var previous = SessionAuthentication.TokenOf(request);
        var byCookie = credentials.Transport is not SessionTransport.Bearer;
        var client = ClientOf(context);
        var isNewDevice = client.Device is null && byCookie;
        if (isNewDevice)
        {
            client = client with { Device = DeviceCookie.New() };
        }

        var login = await events.WatchAsync(
            SecurityEvents.Login, context, () => sessions.LogInAsync(credentials, client, previous, cancel));
        events.Write(SecurityEvents.Login, login.Outcome, context, login.UserId, login.Session?.Id);
        if (!login.Done)
        {
            context.Response.Headers.WWWAuthenticate = "Bearer";
            return RecentAuthentication.Refusal(
                login, "The e-mail address or the password is wrong.", StatusCodes.Status401Unauthorized, context.Response);
        }

        if (login.Session!.Token is null)
        {
            context.Response.Cookies.Append(SessionAuthentication.CookieName, login.Token!.Value.Text, Cookie());
            if (isNewDevice)
            {
                context.Response.Cookies.Append(DeviceCookie.Name, client.Device!, DeviceCookie.Options());
            }
        }

        return TypedResults.Created("/sessions/current", login.Session);
    }

    /// <summary>Lists my sessions, the last used one first.</summary>
    internal static async Task<Ok<Session[]>> List(HttpContext context, SessionService sessions, CancellationToken cancel) =>
        TypedResults.Ok(await sessions.ListAsync(Mine(context), cancel));

    /// <summary>Ends one of my sessions.</summary>
    /// <param name="id">The session's id, from the list.</param>
    internal static async Task<Results<NoContent, ProblemHttpResult>> End(
        Guid id, HttpContext context, SessionService sessions, SecurityEvents events, CancellationToken cancel)
    {
        if (!await sessions.EndAsync(Mine(context).UserId, id, cancel))
        {
            return TypedResults.Problem(statusCode: StatusCodes.Status404NotFound);
        }

        events.Write(SecurityEvents.SessionRevocation, "one", context, sessionId: id);
        return TypedResults.NoContent();
    }

    /// <summary>Ends all my sessions except this one.</summary>
    internal static async Task<NoContent> EndOthers(
        HttpContext context, SessionService sessions, SecurityEvents events, CancellationToken cancel)
    {
        await sessions.EndOthersAsync(TokenOf(context), always: false, cancel);
        events.Write(SecurityEvents.SessionRevocation, "all others", context);
        return TypedResults.NoContent();
    }

    /// <summary>Repeats my password.</summary>
    /// <remarks>
    /// For ten minutes after that, as after a login, I can change my e-mail address and delete my account without the password. Wrong
    /// passwords count by session, and delay no login.
    /// </remarks>
    internal static async Task<Results<NoContent, ProblemHttpResult>> Reauthenticate(
        Reauthenticate credentials, HttpContext context, RecentAuthentication authentication, CancellationToken cancel) =>
        await authentication.ReauthenticateAsync(context, credentials.CurrentPassword, keep: true, cancel) is { } refusal
            ? refusal
            : TypedResults.NoContent();

    /// <summary>Changes my password.</summary>
    /// <remarks>
    /// My other sessions end. A session by cookie continues with a new cookie, a session by bearer token with the same token. Wrong
    /// passwords count by session, so failed logins delay no change. All known networks and devices of the account are removed, except this
    /// one.
    /// </remarks>
    /// <param name="id">My id.</param>
    internal static async Task<Results<NoContent, ValidationProblem, ProblemHttpResult>> ChangePassword(
        Guid id,
        ChangePassword change,
        HttpContext context,
        SessionService sessions,
        RequestLimits limits,
        SecurityEvents events,
        CancellationToken cancel)
    {
        if (await limits.AcquireDeferredAsync(context, RecentAuthentication.Policy) is { } refusal)
        {
            return refusal;
        }

        var token = TokenOf(context);
        var changed = await events.WatchAsync(
            SecurityEvents.PasswordChange,
            context,
            () => sessions.ChangePasswordAsync(change, Mine(context), token, ClientOf(context), cancel));
        events.Write(SecurityEvents.PasswordChange, changed.Outcome, context);
        if (changed.Problem is { } problem)
        {
            return TypedResults.ValidationProblem(new Dictionary<string, string[]> { ["newPassword"] = [problem] });
        }

        if (!changed.Done)
        {
            return RecentAuthentication.Refusal(
                changed, "The current password is wrong.", StatusCodes.Status403Forbidden, context.Response);
        }

        if (changed.Token != token)
        {
            context.Response.Cookies.Append(SessionAuthentication.CookieName, changed.Token!.Value.Text, Cookie());
        }

        return TypedResults.NoContent();
    }

    /// <summary>Returns my session.</summary>
    internal static Ok<Session> Current(HttpContext context) => TypedResults.Ok(Mine(context));

    /// <summary>Logs out.</summary>
    internal static async Task<NoContent> LogOut(
        HttpContext context, SessionService sessions, SecurityEvents events, CancellationToken cancel)
    {
        await sessions.LogOutAsync(TokenOf(context), cancel);
        events.Write(SecurityEvents.Logout, "success", context);
        context.Response.Cookies.Delete(SessionAuthentication.CookieName, Cookie());
        return TypedResults.NoContent();
    }

    private static ValueTask<object?> NotStored(EndpointFilterInvocationContext context, EndpointFilterDelegate next)
    {
        context.HttpContext.Response.Headers.CacheControl = "no-store";
        return next(context);
    }

    private static Session Mine(HttpContext context) => context.Features.GetRequiredFeature<Session>() with { Current = true };

    private static LoginClient ClientOf(HttpContext context) => new(
        Partition.Address(context.Connection.RemoteIpAddress),
        DeviceCookie.Read(context.Request),
        context.Request.Headers.UserAgent.ToString(),
        Partition.NetworkOf(context.Connection.RemoteIpAddress));

    private static SessionToken TokenOf(HttpContext context) => SessionAuthentication.TokenOf(context.Request)!.Value.Token;

    /// <summary>The account that a login names, whether or not it exists; <c>null</c> if the body names none.</summary>
    /// <remarks>The body is parsed as the handler will parse it, so that both always see the same account.</remarks>
    private static async ValueTask<string?> AccountAsync(HttpContext context)
    {
        var request = context.Request;
        if (!request.HasJsonContentType())
        {
            return null;
        }

        request.EnableBuffering(bufferThreshold: ApiConventions.MaxBodyBytes);
        try
        {
            return (await request.ReadFromJsonAsync<CreateSession>(context.RequestAborted))?.Email is { } email ? Email.Key(email) : null;
        }
        catch (Exception error) when (error is JsonException or IOException)
        {
            return null; // the handler fails in the same way and returns the error
        }
        finally
        {
            request.Body.Position = 0;
        }
    }

    private static CookieOptions Cookie() => new() { HttpOnly = true, Secure = true, SameSite = SameSiteMode.Lax, Path = "/" };
}
