using CachingApi.Hosting;

namespace CachingApi.Weather;

internal static class WeatherSetup
{
    public static IServiceCollection AddWeather(this IServiceCollection services)
    {
        services.AddValidatedOptions<WeatherOptions>("Weather");
        services.AddValidatedOptions<BudgetOptions>("Weather:Budget");
        services.AddJson(WeatherJson.Default);
        return services
            .AddOpenMeteo()
            .AddWeatherCaches()
            .AddSingleton<WeatherService>()
            .AddSingleton<WeatherReports>();
    }
}
