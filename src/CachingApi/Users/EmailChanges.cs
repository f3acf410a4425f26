using CachingApi.RateLimiting;
using CachingApi.Sessions;
using Microsoft.AspNetCore.Http.HttpResults;

namespace CachingApi.Users;

/// <summary>
/// Guards changes of the e-mail address, because a thief could take the account over by a change, and because the answer reveals whether an
/// address is in use.
/// </summary>
internal sealed class EmailChanges(
    RecentAuthentication authentication, RequestLimits limits, SessionService sessions, SecurityEvents events)
{
    /// <summary>The limits whose permits a change acquires.</summary>
    public const string Policy = "email-change", Registration = "registration", RegistrationNetwork = "registration-network";

    /// <summary>The answer to a request that must not change an address; <c>null</c> if it may.</summary>
    public async Task<ProblemHttpResult?> RefusalAsync(HttpContext context, string? password, CancellationToken cancel) =>
        await authentication.RefusalAsync(context, password, cancel)
        ?? await limits.AcquireDeferredAsync(context, Policy, Registration, RegistrationNetwork);

    /// <summary>After the change: ends the user's other sessions, because a thief may have one of them.</summary>
    public async Task CompleteAsync(HttpContext context, Guid userId, bool changed)
    {
        if (changed)
        {
            await (Caller.IsSelf(context.User, context)
                ? sessions.EndOthersAsync(SessionAuthentication.TokenOf(context.Request)!.Value.Token, always: true, CancellationToken.None)
                : sessions.EndAllAsync(userId, CancellationToken.None));
        }

        events.Write(SecurityEvents.EmailChange, changed ? "success" : "failure", context, userId);
    }
}
