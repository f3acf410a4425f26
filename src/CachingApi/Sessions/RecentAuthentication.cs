using System.Globalization;
using CachingApi.RateLimiting;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Http.HttpResults;

namespace CachingApi.Sessions;

/// <summary>
/// Guards operations that take an account over or destroy it: the caller must have given the password recently, so that a stolen session
/// does not suffice.
/// </summary>
internal sealed class RecentAuthentication(SessionService sessions, RequestLimits limits, SecurityEvents events)
{
    public const string ProblemType = "reauthentication-required";

    /// <summary>
    /// The policy that limits how many passwords a session checks. The back-off does not slow down right passwords, and each check takes a
    /// processor.
    /// </summary>
    public const string Policy = "password";

    /// <summary>How long after a password no other is required.</summary>
    public static readonly TimeSpan MaxAge = TimeSpan.FromMinutes(10);

    /// <summary>The answer to a request whose session is too old; <c>null</c> if it may go on.</summary>
    /// <param name="password">The caller's password, if the request has it.</param>
    public async Task<ProblemHttpResult?> RefusalAsync(HttpContext context, string? password, CancellationToken cancel)
    {
        var session = context.Features.GetRequiredFeature<Session>();
        if (session.SinceAuthentication <= MaxAge)
        {
            return null;
        }

        if (password is not null)
        {
            return await ReauthenticateAsync(context, password, keep: false, cancel);
        }

        events.Write(SecurityEvents.Reauthentication, "required", context);
        return TypedResults.Problem(
            "The password was given too long ago: send it as currentPassword, or to POST /sessions/current/reauthentication.",
            statusCode: StatusCodes.Status403Forbidden,
            title: "Reauthentication required",
            type: ProblemType);
    }

    /// <summary>Checks the caller's password.</summary>
    /// <param name="keep">Whether the session's later requests need no password.</param>
    /// <returns>The answer if the password is wrong, or may not be tried yet.</returns>
    public async Task<ProblemHttpResult?> ReauthenticateAsync(HttpContext context, string password, bool keep, CancellationToken cancel)
    {
        if (await limits.AcquireDeferredAsync(context, Policy) is { } refusal)
        {
            return refusal;
        }

        var session = context.Features.GetRequiredFeature<Session>();
        SessionToken? token = keep ? SessionAuthentication.TokenOf(context.Request)!.Value.Token : null;
        var attempt = await events.WatchAsync(
            SecurityEvents.Reauthentication, context, () => sessions.ReauthenticateAsync(
                password, session, token, Partition.NetworkOf(context.Connection.RemoteIpAddress), cancel));
        events.Write(SecurityEvents.Reauthentication, attempt.Outcome, context);
        return attempt.Done ? null : Refusal(attempt, "The current password is wrong.", StatusCodes.Status403Forbidden, context.Response);
    }

    /// <summary>The answer to a password that is wrong, or that may not be tried yet.</summary>
    public static ProblemHttpResult Refusal(PasswordAttempt attempt, string reason, int status, HttpResponse response)
    {
        if (attempt.Wait == TimeSpan.Zero)
        {
            return TypedResults.Problem(reason, statusCode: status);
        }

        var seconds = (long)Math.Ceiling(attempt.Wait.TotalSeconds);
        response.Headers.RetryAfter = seconds.ToString(CultureInfo.InvariantCulture);
        return TypedResults.Problem($"Too many attempts: try again in {seconds} s.", statusCode: StatusCodes.Status429TooManyRequests);
    }
}
