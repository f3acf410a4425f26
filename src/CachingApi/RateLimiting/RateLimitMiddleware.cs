namespace CachingApi.RateLimiting;

/// <summary>Limits requests by the metadata of their endpoint: policy, partition, decision, headers; 429 for a denied request.</summary>
internal sealed class RateLimitMiddleware(RequestDelegate next, RequestLimits limits)
{
    public async Task InvokeAsync(HttpContext context)
    {
        if (await limits.AcquireAsync(context) is { } rejection)
        {
            await rejection.ExecuteAsync(context);
            return;
        }

        await next(context);
    }
}
