using CachingApi.Hosting;
using Microsoft.AspNetCore.Authentication;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Identity;
using Microsoft.OpenApi;
using Swashbuckle.AspNetCore.SwaggerGen;

namespace CachingApi.Sessions;

internal static class SessionsSetup
{
    public static IServiceCollection AddSessions(this IServiceCollection services)
    {
        services.AddValidatedOptions<SessionPolicy>("Sessions");
        services.Configure<PasswordHasherOptions>(hasher => hasher.IterationCount = Passwords.Iterations);
        services.AddJson(SessionJson.Default);
        // AddAuthentication would add data protection, whose keys this service does not need.
        services.AddWebEncoders();
        services.AddAuthenticationCore(options => options.DefaultScheme = SessionAuthentication.SchemeName);
        new AuthenticationBuilder(services)
            .AddScheme<AuthenticationSchemeOptions, SessionAuthentication>(SessionAuthentication.SchemeName, null);
        services.AddAuthorization(Caller.AddPolicies);
        // After the comments in the source, whose text it goes before.
        services.PostConfigure<SwaggerGenOptions>(docs =>
        {
            docs.OperationFilter<AuthorizationDocs>();
            docs.SchemaFilter<LoginExample>();
        });
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
            .AddSingleton<SessionMemory>()
            .AddSingleton<SessionBackplane>()
            .AddHostedService(provider => provider.GetRequiredService<SessionBackplane>())
            .AddSingleton<SessionStore>()
            .AddSingleton<PasswordChecks>()
            .AddSingleton<Passwords>()
            .AddSingleton<LoginBackoff>()
            .AddSingleton<AccountRepository>()
            .AddSingleton<AdminRights>()
            .AddSingleton<SecurityEvents>()
            .AddSingleton<RecentAuthentication>()
            .AddSingleton<IAuthorizationMiddlewareResultHandler, LoggedAuthorization>()
            .AddSingleton<SessionService>();
    }

    /// <summary>Authenticates and authorizes requests.</summary>
    public static WebApplication UseSessions(this WebApplication app)
    {
        app.UseAuthentication();
        app.UseAuthorization();
        app.UseAdministratorActionLog();
        return app;
    }
}
