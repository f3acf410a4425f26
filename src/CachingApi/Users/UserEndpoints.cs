using System.ComponentModel.DataAnnotations;
using CachingApi.Caching;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Sessions;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Mvc;
using Microsoft.Net.Http.Headers;

namespace CachingApi.Users;

internal static class UserEndpoints
{
    /// <summary>Answers about a person may be kept by that person's browser only, and must be asked for again each time.</summary>
    private const string CacheControl = "private, no-cache";

    /// <summary>How many users a page has, unless the request says otherwise; and at most.</summary>
    public const int DefaultLimit = 20, MaxLimit = 100;

    public static void MapUsers(this IEndpointRouteBuilder routes)
    {
        var users = routes.MapGroup("/users").WithTags("Users")
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status503ServiceUnavailable);

        users.MapPost("/", Create).WithName("createUser").AllowAnonymous()
            .RequireRateLimit(EmailChanges.Registration).RequireRateLimit(EmailChanges.RegistrationNetwork)
            .ProducesHeader(HeaderNames.ETag, StatusCodes.Status201Created)
            .ProducesProblems(StatusCodes.Status409Conflict);
        users.MapGet("/", List).WithName("listUsers").RequireAuthorization(Caller.Admin).RequireRateLimit("default")
            .Produces<UserPage>().Produces(StatusCodes.Status304NotModified);
        users.MapGet("/{id}", Find).WithName("getUser").RequireAuthorization(Caller.SelfOrAdmin).RequireRateLimit("default")
            .Produces<User>().Produces(StatusCodes.Status304NotModified).ProducesProblems(StatusCodes.Status404NotFound);
        // A change of the e-mail address can find out whether an address is in use, as a registration can: it counts as one.
        users.MapPut("/{id}", Update).WithName("updateUser").RequireAuthorization(Caller.SelfOrAdmin).RequireRateLimit("default")
            .DeferRateLimit(EmailChanges.Policy).DeferRateLimit(EmailChanges.Registration).DeferRateLimit(EmailChanges.RegistrationNetwork)
            .DeferRateLimit(RecentAuthentication.Policy)
            .ProducesHeader(HeaderNames.ETag, StatusCodes.Status200OK, StatusCodes.Status202Accepted)
            .ProducesProblems(StatusCodes.Status404NotFound, StatusCodes.Status409Conflict, StatusCodes.Status412PreconditionFailed);
        users.MapDelete("/{id}", Delete).WithName("deleteUser").RequireAuthorization(Caller.SelfOrAdmin).RequireRateLimit("default")
            .DeferRateLimit(RecentAuthentication.Policy)
            .ProducesProblems(StatusCodes.Status404NotFound);
    }

    /// <summary>Creates a user.</summary>
    internal static async Task<Results<Created<User>, ProblemHttpResult>> Create(
        CreateUser user, HttpContext context, Registration users, Cache<User> cache, SecurityEvents events, CancellationToken cancel)
    {
        var created = await events.WatchAsync(SecurityEvents.Registration, context, () => users.CreateAsync(
            user, Partition.NetworkOf(context.Connection.RemoteIpAddress), cancel));
        events.Write(SecurityEvents.Registration, created is null ? "failure" : "success", context, created?.Id);
        return created is null
            ? Refused(WriteOutcome.Conflict)
            : TypedResults.Created($"/users/{created.Id}", WithETag(created, cache, context.Response));
    }

    /// <summary>Lists users, newest first.</summary>
    /// <param name="limit">How many at most, 1 to 100.</param>
    /// <param name="after">The <c>next</c> of the page before.</param>
    internal static async Task<IResult> List(
        UserService users, CancellationToken cancel, [Range(1, MaxLimit)] int limit = DefaultLimit, Guid? after = null) =>
        new CachedJson((await users.ListAsync(after, limit, cancel)).Untyped, CacheControl);

    /// <summary>Finds a user.</summary>
    /// <remarks>
    /// If the ETag in <c>If-None-Match</c> is still current, the answer is 304. <c>Cache-Status</c> distinguishes hit and miss.
    /// </remarks>
    internal static async Task<IResult> Find(Guid id, UserService users, Cache<User> cache, CancellationToken cancel) =>
        new CachedJson((await users.FindAsync(id, cancel)).Untyped, CacheControl, shape: cache.ETagShape());

    /// <summary>Changes a user.</summary>
    /// <remarks>
    /// Another e-mail address needs the caller's password, if that was given more than ten minutes ago (403 of type
    /// <c>reauthentication-required</c>), counts as a registration does, and ends the user's other sessions.
    /// </remarks>
    /// <param name="ifMatch">
    /// The ETag that must still be current; if not, the answer is 412. So no other client's change is overwritten unseen.
    /// </param>
    /// <param name="strategy">
    /// <c>write-through</c> and <c>invalidate</c> answer 200 after the commit. <c>write-behind</c> answers 202 when the change is
    /// in a durable queue: it is shown at once and in the database soon. Where it cannot be queued, and if it changes the e-mail address,
    /// it is written through (200). What a crash of Redis can lose of acknowledged changes depends on its <c>appendfsync</c>:
    /// <c>always</c> nothing, <c>everysec</c> the last second.
    /// </param>
    internal static async Task<Results<Ok<User>, Accepted<User>, ProblemHttpResult>> Update(
        Guid id,
        UpdateUser user,
        HttpContext context,
        UserService users,
        Cache<User> cache,
        EmailChanges emailChanges,
        CancellationToken cancel,
        [FromHeader(Name = "If-Match")] string? ifMatch = null,
        [AllowedValues(
            WriteStrategies.WriteThrough, WriteStrategies.Invalidate, WriteStrategies.WriteBehind, null,
            ErrorMessage = WriteStrategies.OneOf)]
        string? strategy = null)
    {
        var versions = ETags.Versions(ifMatch, cache.ETagShape());
        var (outcome, updated, _) = await users.UpdateAsync(id, user, versions, WriteStrategies.Parse(strategy), mayChangeEmail: false);
        if (outcome is WriteOutcome.Rejected)
        {
            if (await emailChanges.RefusalAsync(context, user.CurrentPassword, cancel) is { } refusal)
            {
                return refusal;
            }

            (outcome, updated, _) = await users.UpdateAsync(id, user, versions, WriteStrategies.Parse(strategy), mayChangeEmail: true);
            await emailChanges.CompleteAsync(context, id, changed: updated is not null);
        }

        return updated is null ? Refused(outcome)
            : outcome is WriteOutcome.Accepted ? TypedResults.Accepted($"/users/{id}", WithETag(updated, cache, context.Response))
            : TypedResults.Ok(WithETag(updated, cache, context.Response));
    }

    /// <summary>Deletes a user and ends that user's sessions.</summary>
    /// <remarks>
    /// It needs the caller's password, if that was given more than ten minutes ago: a body with <c>currentPassword</c>. Without it the
    /// answer is a 403 of type <c>reauthentication-required</c>.
    /// </remarks>
    internal static async Task<Results<NoContent, ProblemHttpResult>> Delete(
        Guid id,
        HttpContext context,
        UserService users,
        RecentAuthentication authentication,
        SecurityEvents events,
        CancellationToken cancel,
        [FromBody] DeleteUser? body = null)
    {
        if (await authentication.RefusalAsync(context, body?.CurrentPassword, cancel) is { } refusal)
        {
            return refusal;
        }

        var deleted = await users.DeleteAsync(id);
        events.Write(SecurityEvents.AccountDeletion, deleted ? "success" : "failure", context, id);
        return deleted ? TypedResults.NoContent() : Refused(WriteOutcome.NotFound);
    }

    private static User WithETag(User user, Cache<User> cache, HttpResponse response)
    {
        response.Headers.ETag = ETags.Of(user.Version, cache.ETagShape());
        response.Headers.CacheControl = CacheControl;
        return user;
    }

    private static ProblemHttpResult Refused(WriteOutcome outcome) => outcome switch
    {
        WriteOutcome.Conflict => TypedResults.Problem("This e-mail address is in use.", statusCode: StatusCodes.Status409Conflict),
        WriteOutcome.VersionMismatch => TypedResults.Problem(
            "The user has changed since: read it again.", statusCode: StatusCodes.Status412PreconditionFailed),
        _ => TypedResults.Problem(statusCode: StatusCodes.Status404NotFound),
    };
}
