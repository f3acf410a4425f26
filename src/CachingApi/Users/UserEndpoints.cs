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
    /// <summary>Only the person's own browser may keep an answer about a person, and it must revalidate the answer each time.</summary>
    private const string CacheControl = "private, no-cache";

    /// <summary>The default and the maximum number of users on a page.</summary>
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
        // A change of the e-mail address reveals whether an address is in use, as a registration does, so it counts as one.
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
    /// <param name="limit">The maximum number of users, 1 to 100.</param>
    /// <param name="after">The <c>next</c> of the previous page.</param>
    internal static async Task<IResult> List(
        UserService users, CancellationToken cancel, [Range(1, MaxLimit)] int limit = DefaultLimit, Guid? after = null) =>
        new CachedJson((await users.ListAsync(after, limit, cancel)).Untyped, CacheControl);

    /// <summary>Finds a user.</summary>
    /// <remarks>
    /// If the ETag in <c>If-None-Match</c> is still current, the answer is 304. <c>Cache-Status</c> distinguishes hit and miss.
    /// </remarks>
    /// <param name="id">The user's id, from the answer that created the user or from the list.</param>
    internal static async Task<IResult> Find(Guid id, UserService users, Cache<User> cache, CancellationToken cancel) =>
        new CachedJson((await users.FindAsync(id, cancel)).Untyped, CacheControl, shape: cache.ETagShape());

    /// <summary>Changes a user.</summary>
    /// <remarks>
    /// A change of the e-mail address needs the caller's password if the last one was given more than ten minutes ago (403 of type
    /// <c>reauthentication-required</c>). It counts as a registration, and ends the user's other sessions.
    /// </remarks>
    /// <param name="id">The user's id.</param>
    /// <param name="ifMatch">
    /// The ETag that must still be current; if it is not, the answer is 412. So a client does not overwrite another client's change unseen.
    /// </param>
    /// <param name="strategy">
    /// <c>write-through</c> and <c>invalidate</c> answer 200 after the commit. <c>write-behind</c> answers 202 when the change is in a
    /// durable queue: reads return it at once, and the database has it soon. If the change cannot be queued, or changes the e-mail address,
    /// it is written through (200). With <c>appendfsync always</c>, a crash of Redis loses no acknowledged change; with <c>everysec</c>, it
    /// can lose those of the last second.
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
    /// If the caller's last password was given more than ten minutes ago, the request needs a body with <c>currentPassword</c>. Without it,
    /// the answer is 403 of type <c>reauthentication-required</c>.
    /// </remarks>
    /// <param name="id">The user's id.</param>
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
            "The user has changed since the request's ETag: read it again.", statusCode: StatusCodes.Status412PreconditionFailed),
        _ => TypedResults.Problem(statusCode: StatusCodes.Status404NotFound),
    };
}
