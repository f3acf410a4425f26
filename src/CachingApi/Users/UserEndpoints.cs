using System.ComponentModel.DataAnnotations;
using CachingApi.Caching;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Sessions;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Mvc;

namespace CachingApi.Users;

internal static class UserEndpoints
{
    /// <summary>Answers about a person may be kept by that person's browser only, and must be asked for again each time.</summary>
    private const string CacheControl = "private, no-cache";

    /// <summary>How many users a page has, unless the request says otherwise; and at most.</summary>
    public const int DefaultLimit = 20, MaxLimit = 100;

    public static IServiceCollection AddUsers(this IServiceCollection services)
    {
        services.AddValidatedOptions<UserCacheSettings>("Cache:Users");
        services.AddValidatedOptions<UserListCacheSettings>("Cache:UserLists");
        services.AddValidatedOptions<AdminOptions>("Admin");
        services.AddJson(UserJson.Default);
        return services
            .AddSingleton<UserCache>()
            .AddSingleton<UserRepository>()
            .AddSingleton<UserService>()
            .AddSingleton<UserChanges>()
            .AddSingleton<UserWriteBehind>()
            .AddWriteBehind(provider => provider.GetRequiredService<UserWriteBehind>().Target)
            .AddSingleton(provider => provider.GetRequiredService<UserChanges>().Table)
            .AddSingleton<UserWarming>()
            .AddSingleton(provider => provider.GetRequiredService<UserWarming>().Users)
            .AddSingleton(provider => provider.GetRequiredService<UserWarming>().Lists)
            .AddHostedService<AdminAccount>();
    }

    public static void MapUsers(this IEndpointRouteBuilder routes)
    {
        var users = routes.MapGroup("/users").WithTags("Users")
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status503ServiceUnavailable);

        users.MapPost("/", Create).AllowAnonymous().RequireRateLimit("registration")
            .ProducesProblems(StatusCodes.Status409Conflict);
        users.MapGet("/", List).RequireAuthorization(Caller.Admin).RequireRateLimit("default")
            .Produces<UserPage>().Produces(StatusCodes.Status304NotModified);
        users.MapGet("/{id}", Find).RequireAuthorization(Caller.SelfOrAdmin).RequireRateLimit("default")
            .Produces<User>().Produces(StatusCodes.Status304NotModified).ProducesProblems(StatusCodes.Status404NotFound);
        users.MapPut("/{id}", Update).RequireAuthorization(Caller.SelfOrAdmin).RequireRateLimit("default")
            .ProducesProblems(StatusCodes.Status404NotFound, StatusCodes.Status409Conflict, StatusCodes.Status412PreconditionFailed);
        users.MapDelete("/{id}", Delete).RequireAuthorization(Caller.SelfOrAdmin).RequireRateLimit("default")
            .ProducesProblems(StatusCodes.Status404NotFound);
    }

    /// <summary>Creates a user.</summary>
    internal static async Task<Results<Created<User>, ProblemHttpResult>> Create(
        CreateUser user, HttpResponse response, UserService users, UserCache cached, CancellationToken cancel) =>
        await users.CreateAsync(user, cancel) is { } created
            ? TypedResults.Created($"/users/{created.Id}", WithETag(created, cached, response))
            : Refused(UserWrite.EmailInUse);

    /// <summary>Lists users, newest first.</summary>
    /// <param name="limit">How many at most, 1 to 100.</param>
    /// <param name="after">The <c>next</c> of the page before.</param>
    internal static async Task<IResult> List(
        UserService users, CancellationToken cancel, [Range(1, MaxLimit)] int limit = DefaultLimit, Guid? after = null) =>
        new CachedJson(await users.ListAsync(after, limit, cancel), CacheControl);

    /// <summary>Finds a user.</summary>
    /// <remarks>An ETag given as <c>If-None-Match</c> is answered by 304 while it still holds. <c>Cache-Status</c> tells hit from miss.</remarks>
    internal static async Task<IResult> Find(Guid id, UserService users, UserCache cached, CancellationToken cancel) =>
        new CachedJson(await users.FindAsync(id, cancel), CacheControl, shape: cached.ETagShape);

    /// <summary>Changes a user.</summary>
    /// <param name="ifMatch">The ETag that must still hold, or the answer is 412: so nobody's change is overwritten unseen.</param>
    /// <param name="strategy">
    /// <c>write-through</c> and <c>invalidate</c> answer 200 after the commit. <c>write-behind</c> answers 202 when the change is
    /// in a durable queue: it is shown at once and in the database soon, but an e-mail address that turns out to be in use is
    /// found out only then, and the change is dropped. Where it cannot be queued, it is written through (200). What a crash of Redis
    /// can lose of acknowledged changes depends on its <c>appendfsync</c>: <c>always</c> nothing, <c>everysec</c> the last second.
    /// </param>
    internal static async Task<Results<Ok<User>, Accepted<User>, ProblemHttpResult>> Update(
        Guid id,
        UpdateUser user,
        UserService users,
        UserCache cached,
        HttpResponse response,
        [FromHeader(Name = "If-Match")] string? ifMatch = null,
        [AllowedValues(WriteStrategies.WriteThrough, WriteStrategies.Invalidate, WriteStrategies.WriteBehind, null)] string? strategy = null)
    {
        var (outcome, updated) = await users.UpdateAsync(id, user, ETags.Versions(ifMatch, cached.ETagShape), WriteStrategies.Parse(strategy));
        return updated is null ? Refused(outcome)
            : outcome is UserWrite.Accepted ? TypedResults.Accepted($"/users/{id}", WithETag(updated, cached, response))
            : TypedResults.Ok(WithETag(updated, cached, response));
    }

    /// <summary>Deletes a user and ends that user's sessions.</summary>
    internal static async Task<Results<NoContent, ProblemHttpResult>> Delete(Guid id, UserService users) =>
        await users.DeleteAsync(id) ? TypedResults.NoContent() : Refused(UserWrite.NotFound);

    private static User WithETag(User user, UserCache cached, HttpResponse response)
    {
        response.Headers.ETag = ETags.Of(user.Version, cached.ETagShape).ToString();
        response.Headers.CacheControl = CacheControl;
        return user;
    }

    private static ProblemHttpResult Refused(UserWrite outcome) => outcome switch
    {
        UserWrite.EmailInUse => TypedResults.Problem("This e-mail address is in use.", statusCode: StatusCodes.Status409Conflict),
        UserWrite.VersionMismatch => TypedResults.Problem("The user has changed since: read it again.", statusCode: StatusCodes.Status412PreconditionFailed),
        _ => TypedResults.Problem(statusCode: StatusCodes.Status404NotFound),
    };
}
