using System.ComponentModel.DataAnnotations;
using System.Diagnostics;
using System.Text.Json.Serialization;
using CachingApi.Caching;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Sessions;
using CachingApi.Users;
using Microsoft.AspNetCore.Http.HttpResults;

namespace CachingApi.Experiments;

/// <summary>The experiments that run in the process that answers.</summary>
public sealed record LabState
{
    /// <summary>The user that experiments change.</summary>
    /// <example>01980000-0000-7000-8000-0000000001ab</example>
    public required Guid UserId { get; init; }

    /// <summary>The faults that can be caused; empty outside of Development.</summary>
    /// <example>["redis-frozen"]</example>
    public required IReadOnlyList<string> Faults { get; init; }

    /// <summary>The steady load; <c>null</c> if there is none.</summary>
    public required LoadState? Load { get; init; }

    /// <summary>The fault at present; <c>null</c> if there is none.</summary>
    public required FaultState? Fault { get; init; }
}

/// <summary>A steady load: reads of users, the popular ones more often (Zipf's law).</summary>
public sealed record LoadRequest
{
    /// <summary>Reads per second, 1 to 2,000.</summary>
    /// <example>200</example>
    [Range(1, 2000)]
    public int Rate { get; set; } = 200; // a generated reader of JSON sets a missing init property to 0

    /// <summary>How many of the newest users are read, 1 to 1,000.</summary>
    /// <example>500</example>
    [Range(1, 1000)]
    public int Keys { get; set; } = 500;
}

/// <summary>The steady load at present.</summary>
public sealed record LoadState
{
    /// <summary>Reads per second.</summary>
    /// <example>200</example>
    public required int Rate { get; init; }

    /// <summary>How many users are read.</summary>
    /// <example>500</example>
    public required int Keys { get; init; }

    /// <summary>When it ends if it is not renewed.</summary>
    public required DateTimeOffset Until { get; init; }

    /// <summary>Reads that were answered.</summary>
    /// <example>4000</example>
    public required long Reads { get; init; }

    /// <summary>Reads that failed.</summary>
    /// <example>0</example>
    public required long Failed { get; init; }

    /// <summary>Reads that were left out, because 256 others were waiting, or because there are no users.</summary>
    /// <example>0</example>
    public required long LeftOut { get; init; }
}

/// <summary>A stampede on one user.</summary>
public sealed record StampedeRequest
{
    /// <summary>How many callers read at the same time, 1 to 1,000.</summary>
    /// <example>500</example>
    [Range(1, 1000)]
    public int Callers { get; set; } = 500;
}

/// <summary>The answers to the callers of a stampede.</summary>
public sealed record StampedeResult
{
    /// <summary>How many callers there were.</summary>
    /// <example>500</example>
    public required int Callers { get; init; }

    /// <summary>Callers that loaded the value from the source.</summary>
    /// <example>1</example>
    public required int Loads { get; init; }

    /// <summary>Callers that shared another caller's load.</summary>
    /// <example>499</example>
    public required int Shared { get; init; }

    /// <summary>Callers that came after the load and found the value in a cache.</summary>
    /// <example>0</example>
    public required int Hits { get; init; }

    /// <summary>Callers that were refused, because a server is away or too many were waiting.</summary>
    /// <example>0</example>
    public required int Refused { get; init; }

    /// <summary>The median of the callers' waiting times, in milliseconds.</summary>
    /// <example>3.2</example>
    public required double P50 { get; init; }

    /// <summary>The 99th percentile of the callers' waiting times, in milliseconds.</summary>
    /// <example>4.1</example>
    public required double P99 { get; init; }
}

/// <summary>A change of the lab's user.</summary>
public sealed record LabUpdate
{
    /// <summary><c>write-through</c>, <c>invalidate</c> or <c>write-behind</c>.</summary>
    /// <example>write-through</example>
    [Required, AllowedValues(
        WriteStrategies.WriteThrough, WriteStrategies.Invalidate, WriteStrategies.WriteBehind, ErrorMessage = WriteStrategies.OneOf)]
    public string Strategy { get; init; } = "";
}

/// <summary>The result of a change of the lab's user.</summary>
public sealed record LabUpdated
{
    /// <summary>Whether the database has the change: <c>false</c> if it is queued.</summary>
    /// <example>true</example>
    public required bool Committed { get; init; }

    /// <summary>The user's version after the change.</summary>
    /// <example>7</example>
    public required long Version { get; init; }

    /// <summary>How long the write took.</summary>
    /// <example>2.4</example>
    public required double Milliseconds { get; init; }
}

/// <summary>A fault of a server.</summary>
public sealed record FaultRequest
{
    /// <summary><c>redis-frozen</c>, <c>backplane-cut</c> or <c>database-locked</c>.</summary>
    /// <example>redis-frozen</example>
    [Required, AllowedValues(
        Experiments.Faults.FrozenRedis, Experiments.Faults.CutBackplane, Experiments.Faults.LockedTable,
        ErrorMessage = "redis-frozen, backplane-cut or database-locked is expected.")]
    public string Fault { get; init; } = "";

    /// <summary>For how long, 1 to 15 seconds.</summary>
    /// <example>5</example>
    [Range(1, 15)]
    public int Seconds { get; set; } = 5;
}

/// <summary>A fault at present.</summary>
public sealed record FaultState
{
    /// <summary><c>redis-frozen</c>, <c>backplane-cut</c> or <c>database-locked</c>.</summary>
    /// <example>redis-frozen</example>
    public required string Fault { get; init; }

    /// <summary>When it ends.</summary>
    public required DateTimeOffset Until { get; init; }
}

[JsonSerializable(typeof(LabState))]
[JsonSerializable(typeof(LoadRequest))]
[JsonSerializable(typeof(StampedeRequest))]
[JsonSerializable(typeof(StampedeResult))]
[JsonSerializable(typeof(LabUpdate))]
[JsonSerializable(typeof(LabUpdated))]
[JsonSerializable(typeof(FaultRequest))]
internal sealed partial class LabJson : JsonSerializerContext;

/// <summary>The experiments of the live page. All are bounded in rate and time.</summary>
internal static class LabEndpoints
{
    public static void MapLabEndpoints(this IEndpointRouteBuilder routes, bool withFaults)
    {
        // The permits of the live page, so that an experiment on the policy default does not blind it.
        var lab = routes.MapGroup("/lab").WithTags("Lab").RequireAuthorization(Caller.Admin).RequireRateLimit("cache-stats");
        lab.MapGet("/", State).WithName("getLab");
        lab.MapPut("/load", Load).WithName("startLoad").ProducesProblems(StatusCodes.Status400BadRequest);
        lab.MapDelete("/load", EndLoad).WithName("endLoad");
        lab.MapPost("/stampede", Release).WithName("releaseStampede")
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status503ServiceUnavailable);
        lab.MapPost("/update", Update).WithName("updateLabUser").ProducesProblems(
            StatusCodes.Status400BadRequest, StatusCodes.Status409Conflict, StatusCodes.Status503ServiceUnavailable);
        if (withFaults)
        {
            lab.MapPost("/faults", Cause).WithName("causeFault")
                .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status409Conflict);
        }
    }

    /// <summary>Returns the experiments that run.</summary>
    internal static Ok<LabState> State(LabLoad load, Faults faults, IHostEnvironment environment) =>
        TypedResults.Ok(Shown(load, faults, environment));

    /// <summary>Starts a steady load on the cache <c>users</c>, or renews it.</summary>
    /// <remarks>
    /// The load ends ten seconds after this request, unless it is renewed by another one. The reads pass the cache, but not HTTP, sessions
    /// and limits.
    /// </remarks>
    internal static Ok<LabState> Load(LoadRequest request, LabLoad load, Faults faults, IHostEnvironment environment)
    {
        load.Start(request);
        return TypedResults.Ok(Shown(load, faults, environment));
    }

    /// <summary>Ends the steady load.</summary>
    internal static NoContent EndLoad(LabLoad load)
    {
        load.Stop();
        return TypedResults.NoContent();
    }

    /// <summary>Evicts the entry of the lab's user, and reads it with many callers at the same time.</summary>
    internal static async Task<Ok<StampedeResult>> Release(StampedeRequest request, Stampede stampede, CancellationToken cancel) =>
        TypedResults.Ok(await stampede.RunAsync(request.Callers, cancel));

    /// <summary>Changes the name of the lab's user by a strategy.</summary>
    internal static async Task<Results<Ok<LabUpdated>, ProblemHttpResult>> Update(
        LabUpdate update, LabUser user, CancellationToken cancel)
    {
        var begun = Stopwatch.GetTimestamp();
        var (outcome, written, _) = await user.UpdateAsync(WriteStrategies.Parse(update.Strategy)!.Value, cancel);
        var elapsed = Stopwatch.GetElapsedTime(begun).TotalMilliseconds;
        return written is null
            ? TypedResults.Problem($"The user was not changed: {outcome}.", statusCode: StatusCodes.Status409Conflict)
            : TypedResults.Ok(new LabUpdated
            {
                Committed = outcome is not WriteOutcome.Accepted,
                Version = written.Version,
                Milliseconds = Math.Round(elapsed, 2),
            });
    }

    /// <summary>Causes a fault of a server for some seconds. Only in Development.</summary>
    internal static Results<Accepted<LabState>, ProblemHttpResult> Cause(
        FaultRequest request, LabLoad load, Faults faults, IHostEnvironment environment) =>
        faults.Begin(request)
            ? TypedResults.Accepted("/lab", Shown(load, faults, environment))
            : TypedResults.Problem("There is a fault at present.", statusCode: StatusCodes.Status409Conflict);

    private static LabState Shown(LabLoad load, Faults faults, IHostEnvironment environment) => new()
    {
        UserId = LabUser.Id,
        Faults = environment.IsDevelopment() ? Faults.All : [],
        Load = load.State,
        Fault = faults.Current,
    };
}
