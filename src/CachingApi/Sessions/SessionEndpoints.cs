using System.Text.Json;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using Microsoft.AspNetCore.Authentication;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Identity;
using Microsoft.OpenApi;

namespace CachingApi.Sessions;

internal static class SessionEndpoints
{
    public static IServiceCollection AddSessions(this IServiceCollection services)
    {
        services.AddValidatedOptions<SessionPolicy>("Sessions");
        services.Configure<PasswordHasherOptions>(hasher => hasher.IterationCount = Passwords.Iterations);
        services.AddJson(SessionJson.Default);
        // AddAuthentication would bring data protection, whose keys nothing here needs.
        services.AddWebEncoders();
        services.AddAuthenticationCore(options => options.DefaultScheme = SessionAuthentication.SchemeName);
        new AuthenticationBuilder(services)
            .AddScheme<AuthenticationSchemeOptions, SessionAuthentication>(SessionAuthentication.SchemeName, null);
        services.AddAuthorization(Caller.AddPolicies);
        services.ConfigureSwaggerGen(docs =>
        {
            docs.AddSecurityDefinition("bearer", new OpenApiSecurityScheme
            {
                Type = SecuritySchemeType.Http,
                Scheme = "bearer",
                Description = "The token of POST /sessions with transport bearer.",
            });
            docs.AddSecurityDefinition("cookie", new OpenApiSecurityScheme
            {
                Type = SecuritySchemeType.ApiKey,
                In = ParameterLocation.Cookie,
                Name = SessionAuthentication.CookieName,
                Description = "The cookie of POST /sessions with transport cookie.",
            });
        });
        return services
            .AddSingleton<SessionMetrics>()
            .AddSingleton<SessionStore>()
            .AddSingleton<Passwords>()
            .AddSingleton<AccountRepository>()
            .AddSingleton<SessionService>();
    }

    /// <summary>Says who is calling, and what they may do.</summary>
    public static WebApplication UseSessions(this WebApplication app)
    {
        app.UseCrossSiteForgeryCheck();
        app.UseAuthentication();
        app.UseAuthorization();
        return app;
    }

    public static void MapSessions(this IEndpointRouteBuilder routes)
    {
        var sessions = routes.MapGroup("/sessions").WithTags("Sessions").RequireAuthorization(Caller.Anyone);

        sessions.MapPost("/", LogIn).AllowAnonymous().RequireRateLimit("login").RequireRateLimit("login-account", account: AccountAsync)
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status401Unauthorized, StatusCodes.Status503ServiceUnavailable);
        sessions.MapGet("/current", Current).RequireRateLimit("default");
        sessions.MapDelete("/current", LogOut).RequireRateLimit("default");
    }

    /// <summary>Logs in.</summary>
    /// <remarks>
    /// With <c>transport: "cookie"</c>, the token is set as the cookie <c>__Host-session</c>, which browsers keep on https and
    /// on localhost only. With <c>"bearer"</c> it is in the body. A session that the request carries is ended.
    /// </remarks>
    internal static async Task<Results<Created<NewSession>, ProblemHttpResult>> LogIn(
        CreateSession login, HttpContext context, SessionService sessions, CancellationToken cancel)
    {
        context.Response.Headers.CacheControl = "no-store";
        var previous = SessionAuthentication.TokenOf(context.Request)?.Token;
        if (await sessions.LogInAsync(login, context.Request.Headers.UserAgent.ToString(), previous, cancel) is not var (session, token))
        {
            context.Response.Headers.WWWAuthenticate = "Bearer";
            return TypedResults.Problem("The e-mail address or the password is wrong.", statusCode: StatusCodes.Status401Unauthorized);
        }

        if (session.Token is null)
        {
            context.Response.Cookies.Append(SessionAuthentication.CookieName, token.Text, Cookie());
        }

        return TypedResults.Created("/sessions/current", session);
    }

    /// <summary>Says who I am.</summary>
    internal static Ok<Session> Current(HttpContext context)
    {
        context.Response.Headers.CacheControl = "no-store";
        return TypedResults.Ok(context.Features.GetRequiredFeature<Session>());
    }

    /// <summary>Logs out.</summary>
    internal static async Task<NoContent> LogOut(HttpContext context, SessionService sessions, CancellationToken cancel)
    {
        context.Response.Headers.CacheControl = "no-store";
        await sessions.LogOutAsync(SessionAuthentication.TokenOf(context.Request)!.Value.Token, cancel);
        context.Response.Cookies.Delete(SessionAuthentication.CookieName, Cookie());
        return TypedResults.NoContent();
    }

    /// <summary>The account that a login is about, whether there is such a one or not; <c>null</c> where the body does not say.</summary>
    /// <remarks>The body is read as the handler will read it, so that no way of writing one names an account to one of them only.</remarks>
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
        catch (Exception error) when (error is JsonException or BadHttpRequestException)
        {
            return null; // the handler finds the same, and says so
        }
        finally
        {
            request.Body.Position = 0;
        }
    }

    private static CookieOptions Cookie() => new() { HttpOnly = true, Secure = true, SameSite = SameSiteMode.Lax, Path = "/" };
}
