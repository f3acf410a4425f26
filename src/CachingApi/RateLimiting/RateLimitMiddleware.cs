namespace CachingApi.RateLimiting;

/// <summary>Limits requests by the metadata of their endpoint: policy, partition, decision, headers; 429 for who is denied.</summary>
internal sealed class RateLimitMiddleware(RequestDelegate next, RequestLimits limits)
{
    public async Task InvokeAsync(HttpContext context)
    {
        if (await limits.AcquireAsync(context) is { } refusal)
        {
            await refusal.ExecuteAsync(context);
            return;
        }

        await next(context);
    }
}
