using CachingApi.Hosting;
using Microsoft.Extensions.Options;

namespace CachingApi.Experiments;

internal static class LabSetup
{
    public static IServiceCollection AddLab(this IServiceCollection services)
    {
        services.AddValidatedOptions<LabOptions>("Lab");
        services.AddJson(LabJson.Default);
        return services.AddSingleton<LabUser>().AddSingleton<LabLoad>().AddSingleton<Stampede>().AddSingleton<Faults>();
    }

    /// <summary>
    /// The routes exist in Development and if <c>Lab:Enabled</c> is set; those that cause faults exist in Development only.
    /// </summary>
    public static void MapLab(this WebApplication app)
    {
        var isDevelopment = app.Environment.IsDevelopment();
        if (isDevelopment || app.Services.GetRequiredService<IOptions<LabOptions>>().Value.Enabled)
        {
            app.MapLabEndpoints(withFaults: isDevelopment);
        }
    }
}
