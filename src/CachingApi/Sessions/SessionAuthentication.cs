using System.Security.Claims;
using System.Text.Encodings.Web;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using Microsoft.AspNetCore.Authentication;
using Microsoft.Extensions.Options;

namespace CachingApi.Sessions;

/// <summary>The authentication scheme: identifies the caller by the session whose token is in the cookie or the bearer token.</summary>
internal sealed class SessionAuthentication(
    SessionStore sessions,
    RequestLimits limits,
    AdminRights rights,
    SecurityEvents events,
    IOptionsMonitor<AuthenticationSchemeOptions> options,
    ILoggerFactory logs,
    UrlEncoder encoder)
    : AuthenticationHandler<AuthenticationSchemeOptions>(options, logs, encoder)
{
    public const string SchemeName = "Session";

    public const string CookieName = "__Host-session";

    private const string BearerPrefix = "Bearer ";

    /// <summary>The token of a request, and how it was sent. A bearer token takes precedence over a cookie.</summary>
    public static (SessionToken Token, SessionTransport Transport)? TokenOf(HttpRequest request)
    {
        var header = request.Headers.Authorization.ToString();
        if (header.StartsWith(BearerPrefix, StringComparison.OrdinalIgnoreCase))
        {
            return SessionToken.Parse(header[BearerPrefix.Length..].Trim()) is { } bearer ? (bearer, SessionTransport.Bearer) : null;
        }

        return RequestCookies.Find(request, CookieName) is { } cookie && SessionToken.Parse(cookie) is { } token
            ? (token, SessionTransport.Cookie)
            : null;
    }

    protected override async Task<AuthenticateResult> HandleAuthenticateAsync()
    {
        if (TokenOf(Request) is not var (token, transport))
        {
            return AuthenticateResult.NoResult();
        }

        try
        {
            if ((sessions.Find(token, transport) ?? await UseInRedisAsync(token, transport)) is not { } session)
            {
                return AuthenticateResult.Fail("The session does not exist.");
            }

            if (session.Role is Caller.AdminRole && !await rights.HoldAsync(session.UserId, Context.RequestAborted))
            {
                await sessions.EndAllAsync(session.UserId, CancellationToken.None);
                events.Write(SecurityEvents.RoleChange, "sessions ended", Context, session.UserId, session.Id);
                return AuthenticateResult.Fail("The user's role has changed.");
            }

            Context.Features.Set(session);
            var identity = new ClaimsIdentity(
                [
                    new(Caller.UserIdClaim, session.UserId.ToString()),
                    new(Caller.RoleClaim, session.Role),
                    new(Partition.SessionIdClaim, session.Id.ToString()),
                ],
                SchemeName,
                Caller.UserIdClaim,
                Caller.RoleClaim);
            return AuthenticateResult.Success(new(new(identity), SchemeName));
        }
        catch (UnavailableException outage)
        {
            return AuthenticateResult.Fail(outage);
        }
    }

    private async Task<Session?> UseInRedisAsync(SessionToken token, SessionTransport transport)
    {
        var ahead = limits.Ahead(Context, token.UserId);
        var session = await sessions.UseInRedisAsync(token, transport, ahead, Context.RequestAborted);
        Context.Features.Set(ahead);
        return session;
    }

    /// <summary>401; but 503 if the session could not be checked, because an outage is no reason for a client to drop its token.</summary>
    protected override async Task HandleChallengeAsync(AuthenticationProperties properties)
    {
        var result = await HandleAuthenticateOnceSafeAsync();
        if (result.Failure is UnavailableException outage)
        {
            throw outage;
        }

        Response.Headers.WWWAuthenticate = result.Failure is null ? "Bearer" : "Bearer error=\"invalid_token\"";
        await base.HandleChallengeAsync(properties);
    }
}
