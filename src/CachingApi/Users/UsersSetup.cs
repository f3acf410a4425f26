using CachingApi.Hosting;

namespace CachingApi.Users;

internal static class UsersSetup
{
    public static IServiceCollection AddUsers(this IServiceCollection services)
    {
        services.AddValidatedOptions<AdminOptions>("Admin");
        services.AddJson(UserJson.Default);
        return services
            .AddUserCaches()
            .AddSingleton<UserRepository>()
            .AddSingleton<AdminRepository>()
            .AddSingleton<UserService>()
            .AddSingleton<Registration>()
            .AddSingleton<RoleChanges>()
            .AddSingleton<EmailChanges>()
            .AddHostedService<AdminAccount>();
    }
}
