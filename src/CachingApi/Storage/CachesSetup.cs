using CachingApi.Caching;

namespace CachingApi.Storage;

internal static class CachesSetup
{
    public static IServiceCollection AddCaches(this IServiceCollection services)
    {
        services.AddValidatedOptions<CachingOptions>("Cache");
        services.AddValidatedOptions<WriteBehindOptions>("WriteBehind");
        services.AddCaching();
        return services;
    }
}
