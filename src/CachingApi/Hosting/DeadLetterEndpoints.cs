using System.ComponentModel.DataAnnotations;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using CachingApi.Caching;
using CachingApi.RateLimiting;
using Microsoft.AspNetCore.Http.HttpResults;

namespace CachingApi.Hosting;

/// <summary>A write that was acknowledged with 202 and could not be persisted.</summary>
public sealed record DeadWrite
{
    /// <summary>Its id among the dead letters.</summary>
    /// <example>1795420800000-0</example>
    public required string Id { get; init; }

    /// <summary>The id of what was to be changed.</summary>
    /// <example>01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required string Key { get; init; }

    /// <summary>The version that the write was acknowledged with.</summary>
    /// <example>2</example>
    public required long Version { get; init; }

    /// <summary>What was to be written.</summary>
    public required JsonNode? Value { get; init; }

    /// <summary>Why it could not be.</summary>
    /// <example>The e-mail address is in use.</example>
    public required string Reason { get; init; }

    /// <summary>When it was acknowledged.</summary>
    public required DateTime AcceptedAt { get; init; }

    /// <summary>When it was given up.</summary>
    public required DateTime DiedAt { get; init; }
}

[JsonSerializable(typeof(DeadWrite[]))]
internal sealed partial class DeadLetterJson : JsonSerializerContext;

/// <summary>What an administrator does with the writes that could not be persisted.</summary>
internal static class DeadLetterEndpoints
{
    private const string Id = @"^\d{1,18}-\d{1,18}$";

    public static void MapDeadLetters(this IEndpointRouteBuilder routes)
    {
        var letters = routes.MapGroup("/cache/dead-letters").WithTags("Cache").RequireAuthorization("Admin")
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status503ServiceUnavailable);

        letters.MapGet("/", List).RequireRateLimit("default");
        letters.MapPost("/{id}/retry", Retry).RequireRateLimit("default").ProducesProblems(StatusCodes.Status404NotFound, StatusCodes.Status409Conflict);
        letters.MapDelete("/{id}", Drop).RequireRateLimit("default").ProducesProblems(StatusCodes.Status404NotFound);
    }

    /// <summary>Lists writes that were acknowledged and could not be persisted, the latest first.</summary>
    /// <remarks>The last 10,000 or so are kept, and the last 20 of one user, until they are retried or dropped.</remarks>
    /// <param name="limit">How many at most, 1 to 1,000.</param>
    internal static async Task<Ok<DeadWrite[]>> List(
        WriteBehindQueue queue, HttpResponse response, CancellationToken cancel, [Range(1, 1000)] int limit = 100)
    {
        response.Headers.CacheControl = "no-store";
        var letters = await queue.DeadLettersAsync(limit, cancel);
        return TypedResults.Ok(letters.Select(letter => new DeadWrite
        {
            Id = letter.LetterId,
            Key = letter.Write.Id,
            Version = letter.Write.Version,
            Value = Value(letter.Write.Value),
            Reason = letter.Reason,
            AcceptedAt = letter.Write.AcceptedAt.UtcDateTime,
            DiedAt = letter.DiedAt.UtcDateTime,
        }).ToArray());
    }

    /// <summary>Queues a dead letter's write once more, as a new one, later than all that was written since.</summary>
    /// <param name="id">The dead letter's id, from the list.</param>
    internal static async Task<Results<Accepted, ProblemHttpResult>> Retry(
        [RegularExpression(Id, ErrorMessage = "This is not the id of a dead letter.")] string id,
        WriteBehindQueue queue,
        WriteBehindTarget target,
        CancellationToken cancel)
    {
        if (await queue.DeadLetterAsync(id, cancel) is not { } letter)
        {
            return TypedResults.Problem(statusCode: StatusCodes.Status404NotFound);
        }

        if (!await target.RetryAsync(letter.Write, cancel))
        {
            return TypedResults.Problem("What was to be changed is not there any more, or cannot be changed so.", statusCode: StatusCodes.Status409Conflict);
        }

        await queue.DropAsync(id, cancel);
        return TypedResults.Accepted("/cache/dead-letters");
    }

    /// <summary>Drops a dead letter.</summary>
    /// <param name="id">The dead letter's id, from the list.</param>
    internal static async Task<Results<NoContent, ProblemHttpResult>> Drop(
        [RegularExpression(Id, ErrorMessage = "This is not the id of a dead letter.")] string id, WriteBehindQueue queue, CancellationToken cancel) =>
        await queue.DropAsync(id, cancel) ? TypedResults.NoContent() : TypedResults.Problem(statusCode: StatusCodes.Status404NotFound);

    /// <summary>JSON as it is; what is not, as text.</summary>
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
