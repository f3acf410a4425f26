using System.ComponentModel.DataAnnotations;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using CachingApi.Caching;
using CachingApi.Caching.Operations;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using Microsoft.AspNetCore.Http.HttpResults;

namespace CachingApi.Administration;

/// <summary>A write that was acknowledged with 202 and could not be persisted.</summary>
public sealed record DeadWrite
{
    /// <summary>The dead letter's id.</summary>
    /// <example>1795420800000-0</example>
    public required string Id { get; init; }

    /// <summary>The cache of the entity.</summary>
    /// <example>users</example>
    public required string Cache { get; init; }

    /// <summary>The id of the entity.</summary>
    /// <example>01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required string Key { get; init; }

    /// <summary>The version that the write was acknowledged with.</summary>
    /// <example>2</example>
    public required long Version { get; init; }

    /// <summary>The change that could not be persisted.</summary>
    public required JsonNode? Value { get; init; }

    /// <summary>Why it could not be persisted.</summary>
    /// <example>The e-mail address is in use.</example>
    public required string Reason { get; init; }

    /// <summary>When the write was acknowledged.</summary>
    public required DateTime AcceptedAt { get; init; }

    /// <summary>When the write was given up.</summary>
    public required DateTime DiedAt { get; init; }
}

[JsonSerializable(typeof(DeadWrite[]))]
internal sealed partial class DeadLetterJson : JsonSerializerContext;

/// <summary>The administration of writes that could not be persisted.</summary>
internal static class DeadLetterEndpoints
{
    private const string Id = @"^\d{1,18}-\d{1,18}$", NotAnId = "The id of a dead letter is expected, such as 1795420800000-0.";

    public static void MapDeadLetters(this IEndpointRouteBuilder routes)
    {
        var letters = routes.MapGroup("/cache/dead-letters").WithTags("Cache").RequireAuthorization("Admin")
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status503ServiceUnavailable);

        letters.MapGet("/", List).WithName("listDeadLetters").RequireRateLimit("default");
        letters.MapPost("/{id}/retry", Retry).WithName("retryDeadLetter")
            .RequireRateLimit("default")
            .ProducesProblems(StatusCodes.Status404NotFound, StatusCodes.Status409Conflict);
        letters.MapDelete("/{id}", Drop).WithName("dropDeadLetter")
            .RequireRateLimit("default")
            .ProducesProblems(StatusCodes.Status404NotFound);
    }

    /// <summary>Lists writes that were acknowledged and could not be persisted, the latest first.</summary>
    /// <remarks>About the last 10,000 of each cache are kept, and the last 20 of one entity, until they are retried or dropped.</remarks>
    /// <param name="limit">The maximum number of dead letters, 1 to 1,000.</param>
    internal static async Task<Ok<DeadWrite[]>> List(
        IEnumerable<Cache> caches, HttpResponse response, CancellationToken cancel, [Range(1, 1000)] int limit = 100)
    {
        response.Headers.CacheControl = "no-store";
        var letters = new List<DeadWrite>();
        foreach (var cache in caches)
        {
            if (cache.DeadLetters is { } dead)
            {
                letters.AddRange((await dead.ListAsync(limit, cancel)).Select(letter => Shown(cache, letter)));
            }
        }

        return TypedResults.Ok(letters.OrderByDescending(letter => letter.DiedAt).Take(limit).ToArray());
    }

    /// <summary>Queues the write of a dead letter again, as a new write, later than all writes since.</summary>
    /// <param name="id">The id of the dead letter, from the list.</param>
    /// <param name="cache">Its cache, from the list; it is needed only if letters of two caches have the same id.</param>
    internal static async Task<Results<Accepted, ProblemHttpResult>> Retry(
        [RegularExpression(Id, ErrorMessage = NotAnId)] string id,
        IEnumerable<Cache> caches,
        CancellationToken cancel,
        [StringLength(100)] string? cache = null)
    {
        if (await FindAsync(caches, cache, id, cancel) is not var (dead, letter))
        {
            return TypedResults.Problem(statusCode: StatusCodes.Status404NotFound);
        }

        return await dead.RetryAsync(letter, cancel)
            ? TypedResults.Accepted("/cache/dead-letters")
            : TypedResults.Problem(
                "The entity no longer exists, or the change is not possible any more.", statusCode: StatusCodes.Status409Conflict);
    }

    /// <summary>Drops a dead letter.</summary>
    /// <param name="id">The id of the dead letter, from the list.</param>
    /// <param name="cache">Its cache, from the list; it is needed only if letters of two caches have the same id.</param>
    internal static async Task<Results<NoContent, ProblemHttpResult>> Drop(
        [RegularExpression(Id, ErrorMessage = NotAnId)] string id,
        IEnumerable<Cache> caches,
        CancellationToken cancel,
        [StringLength(100)] string? cache = null) =>
        await FindAsync(caches, cache, id, cancel) is var (dead, letter) && await dead.DropAsync(letter.LetterId, cancel)
            ? TypedResults.NoContent()
            : TypedResults.Problem(statusCode: StatusCodes.Status404NotFound);

    private static async Task<(DeadLetters Dead, DeadLetter Letter)?> FindAsync(
        IEnumerable<Cache> caches, string? name, string id, CancellationToken cancel)
    {
        foreach (var cache in caches)
        {
            if ((name is null || cache.Name == name) && cache.DeadLetters is { } dead && await dead.FindAsync(id, cancel) is { } letter)
            {
                return (dead, letter);
            }
        }

        return null;
    }

    private static DeadWrite Shown(Cache cache, DeadLetter letter) => new()
    {
        Id = letter.LetterId,
        Cache = cache.Name,
        Key = letter.Write.Id,
        Version = letter.Write.Version,
        Value = Value(letter.Write.Value),
        Reason = letter.Reason,
        AcceptedAt = letter.Write.AcceptedAt.UtcDateTime,
        DiedAt = letter.DiedAt.UtcDateTime,
    };

    /// <summary>The change as JSON; if its bytes are not JSON, as text.</summary>
    private static JsonNode? Value(ReadOnlyMemory<byte> value)
    {
        try
        {
            return JsonNode.Parse(value.Span);
        }
        catch (JsonException)
        {
            return JsonValue.Create(System.Text.Encoding.UTF8.GetString(value.Span));
        }
    }
}
