using System.Net;
using Microsoft.Extensions.Options;
using Polly;
using Polly.CircuitBreaker;
using Polly.Retry;
using Polly.Timeout;

namespace CachingApi.Weather;

/// <summary>The pipeline of calls to Open-Meteo, from the outside: retry, breaker, one call at a time, time-out.</summary>
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
            // Network calls take real time, whatever clock the service uses.
            pipeline.TimeProvider = TimeProvider.System;
            pipeline
                // Retries only failures that probably pass at once: not a limit, not a slow call, not an answer that tells when to try
                // again.
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
                // The upstream answers one request at a time and queues only a few.
                .AddConcurrencyLimiter(permitLimit: 1, queueLimit: 32)
                .AddTimeout(context.ServiceProvider.GetRequiredService<IOptions<WeatherOptions>>().Value.Timeout);
        });
        client.AddHttpMessageHandler<UpstreamCalls>();
        return services;
    }

    /// <summary>Whether there is no answer, a broken one, or a server error.</summary>
    private static bool HasFailed(Outcome<HttpResponseMessage> outcome) =>
        outcome.Exception is HttpRequestException || outcome.Result is { StatusCode: >= HttpStatusCode.InternalServerError };
}
