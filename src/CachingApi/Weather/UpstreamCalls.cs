using System.Net;
using System.Text.Json;

namespace CachingApi.Weather;

/// <summary>
/// Wraps every attempt to call the upstream: it spends one call of the budget, reads the answer to its end, checks and counts it. So a body
/// that arrives too slowly runs into the time-out, and a truncated body is a failure although its status is 200.
/// </summary>
internal sealed class UpstreamCalls(UpstreamBudget budget, WeatherMetrics metrics, TimeProvider time) : DelegatingHandler
{
    private const long MaxBodyBytes = 256 * 1024;

    protected override async Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancellationToken)
    {
        await budget.SpendAsync(request.Options.TryGetValue(UpstreamBudget.IsNew, out var isNew) && isNew, cancellationToken);
        var start = time.GetTimestamp();
        var outcome = "unreachable";
        HttpResponseMessage? response = null;
        try
        {
            response = await base.SendAsync(request, cancellationToken);
            outcome = "broken";
            await response.Content.LoadIntoBufferAsync(MaxBodyBytes, cancellationToken);
            if (response.IsSuccessStatusCode)
            {
                using var _ = await JsonDocument.ParseAsync(
                    await response.Content.ReadAsStreamAsync(cancellationToken), cancellationToken: cancellationToken);
            }

            outcome = response.StatusCode switch
            {
                < HttpStatusCode.Ambiguous => "answered",
                HttpStatusCode.TooManyRequests => "limited",
                < HttpStatusCode.InternalServerError => "refused",
                _ => "failed",
            };
            return response;
        }
        catch (Exception error)
        {
            response?.Dispose();
            if (error is OperationCanceledException)
            {
                outcome = "timeout";
            }

            if (error is JsonException)
            {
                throw new HttpRequestException(HttpRequestError.InvalidResponse, "The answer is not JSON.", error);
            }

            throw;
        }
        finally
        {
            metrics.Call(request.RequestUri!.Segments[^1], outcome, time.GetElapsedTime(start));
        }
    }
}
