using System.Net;
using Microsoft.Extensions.Options;
using Polly;
using Polly.CircuitBreaker;
using Polly.Retry;
using Polly.Timeout;

namespace CachingApi.Weather;

/// <summary>How Open-Meteo is called: retry, breaker, one call at a time, time-out, in this order from the outside.</summary>
internal static class OpenMeteoSetup
{
    public static TimeSpan BreakDuration { get; } = TimeSpan.FromSeconds(5);

    public static IServiceCollection AddOpenMeteo(this IServiceCollection services)
    {
        var client = services
            .AddSingleton<OpenMeteo>()
            .AddSingleton<UpstreamBudget>()
            .AddSingleton<WeatherMetrics>()
            .AddTransient<UpstreamCalls>()
            .AddHttpClient(OpenMeteo.ClientName, client => client.Timeout = Timeout.InfiniteTimeSpan)
            .RemoveAllLoggers();
        client.AddResilienceHandler(OpenMeteo.ClientName, (pipeline, context) =>
        {
            // What goes on between machines takes its time, whatever clock the service goes by.
            pipeline.TimeProvider = TimeProvider.System;
            pipeline
                // Only what is likely to go well at once: not a limit, nor what was slow, nor who says when to come back.
                .AddRetry(new RetryStrategyOptions<HttpResponseMessage>
                {
                    MaxRetryAttempts = 2,
                    Delay = TimeSpan.FromMilliseconds(200),
                    BackoffType = DelayBackoffType.Exponential,
                    UseJitter = true,
                    ShouldHandle = attempt => ValueTask.FromResult(
                        HasFailed(attempt.Outcome) && attempt.Outcome.Result?.Headers.RetryAfter is null),
                })
                .AddCircuitBreaker(new CircuitBreakerStrategyOptions<HttpResponseMessage>
                {
                    FailureRatio = 0.5,
                    MinimumThroughput = 6,
                    SamplingDuration = TimeSpan.FromSeconds(30),
                    BreakDuration = BreakDuration,
                    ShouldHandle = attempt => ValueTask.FromResult(
                        HasFailed(attempt.Outcome) || attempt.Outcome.Exception is TimeoutRejectedException),
                })
                // The upstream answers one request at a time and lets few wait.
                .AddConcurrencyLimiter(permitLimit: 1, queueLimit: 32)
                .AddTimeout(context.ServiceProvider.GetRequiredService<IOptions<WeatherOptions>>().Value.Timeout);
        });
        client.AddHttpMessageHandler<UpstreamCalls>();
        return services;
    }

    /// <summary>No answer, a broken one, or a fault of the server's.</summary>
    private static bool HasFailed(Outcome<HttpResponseMessage> outcome) =>
        outcome.Exception is HttpRequestException || outcome.Result is { StatusCode: >= HttpStatusCode.InternalServerError };
}
