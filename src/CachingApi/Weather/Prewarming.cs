using Microsoft.Extensions.Options;

namespace CachingApi.Weather;

/// <summary>
/// Pre-warming: loads the weather of the configured cities at start, in the background and through the normal path, so that the
/// first who ask need not wait. It ends early when half of the upstream's budget is spent, as the rest is for those who ask.
/// </summary>
internal sealed partial class Prewarming(
    WeatherService weather, UpstreamBudget budget, IOptions<WeatherOptions> options, ILogger<Prewarming> log) : BackgroundService
{
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var cities = options.Value.Prewarm;
        var warmed = 0;
        try
        {
            foreach (var city in cities.TakeWhile(_ => !budget.IsHalfSpent))
            {
                await weather.FindAsync(CityName.Parse(city)!.Value, stoppingToken);
                warmed++;
            }
        }
#pragma warning disable CA1031 // Nobody waits for it, and the service must not end with it: whoever asks loads anyway.
        catch (Exception error) when (!stoppingToken.IsCancellationRequested)
#pragma warning restore CA1031
        {
            Log.EndedEarly(log, error.Message);
        }

        if (cities.Length > 0)
        {
            Log.Warmed(log, warmed, cities.Length);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "The weather of {Warmed} of {Count} cities is warm")]
        public static partial void Warmed(ILogger log, int warmed, int count);

        [LoggerMessage(2, LogLevel.Warning, "Pre-warming ended early: {Reason}")]
        public static partial void EndedEarly(ILogger log, string reason);
    }
}
