using CachingApi.RequestState;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.Extensions.Options;

namespace CachingApi.RateLimiting;

internal static class RateLimitingSetup
{
    public static IServiceCollection AddRateLimits(this IServiceCollection services)
    {
        services.AddValidatedOptions<RateLimitOptions>("RateLimits", strict: true);
        services.AddSingleton<RateLimitedRoutes>();
        services.AddSingleton<IValidateOptions<RateLimitOptions>>(provider => provider.GetRequiredService<RateLimitedRoutes>());
        services.Configure<JsonOptions>(json => json.SerializerOptions.TypeInfoResolverChain.Insert(0, LimitJson.Default));
        return services
            .AddSingleton<RateLimitMetrics>()
            .AddSingleton<RateLimitPolicies>()
            .AddSingleton<StateCalls>()
            .AddSingleton<RedisLimits>()
            .AddSingleton<PermitLeases>()
            .AddSingleton<LocalLimits>()
            .AddSingleton<RejectionCache>()
            .AddSingleton<RedisRateLimiter>()
            .AddSingleton<RequestLimits>();
    }

    /// <summary>
    /// Limits requests before the middleware after it, which includes authentication. So a client that is limited by address is denied
    /// without authentication.
    /// </summary>
    public static WebApplication UseRateLimits(this WebApplication app)
    {
        app.Services.GetRequiredService<RateLimitedRoutes>().Sources = ((IEndpointRouteBuilder)app).DataSources;
        app.UseMiddleware<RateLimitMiddleware>();
        return app;
    }
}
