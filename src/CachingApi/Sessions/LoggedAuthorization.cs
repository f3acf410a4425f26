using CachingApi.Redis;
using Microsoft.AspNetCore.Authentication;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Authorization.Policy;

namespace CachingApi.Sessions;

/// <summary>Logs rejected sessions and forbidden requests, then answers as the framework does.</summary>
internal sealed class LoggedAuthorization(SecurityEvents events) : IAuthorizationMiddlewareResultHandler
{
    private readonly AuthorizationMiddlewareResultHandler _inner = new();

    public async Task HandleAsync(
        RequestDelegate next, HttpContext context, AuthorizationPolicy policy, PolicyAuthorizationResult authorizeResult)
    {
        if (authorizeResult.Forbidden)
        {
            events.Write(SecurityEvents.AccessDenial, "denied", context);
        }
        else if (authorizeResult.Challenged
            && (await context.AuthenticateAsync()).Failure is { } failure and not UnavailableException)
        {
            events.Write(SecurityEvents.SessionRejection, failure.Message, context);
        }

        await _inner.HandleAsync(next, context, policy, authorizeResult);
    }
}
