using System.ComponentModel.DataAnnotations;
using System.Text.Json.Serialization;
using CachingApi.Caching;
using CachingApi.Caching.Operations;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.AspNetCore.Mvc;

namespace CachingApi.Administration;

/// <summary>The entry of an entity in each tier, without its body.</summary>
public sealed record StoredEntry
{
    /// <summary>The cache.</summary>
    /// <example>users</example>
    public required string Cache { get; init; }

    /// <summary>The entity's id within the cache.</summary>
    /// <example>01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required string Id { get; init; }

    /// <summary>Its key in Redis, of the present generation; <c>null</c> while Redis is away.</summary>
    /// <example>cachingapi:users:g1796000000000:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required string? RedisKey { get; init; }

    /// <summary>Whether a process is loading it now.</summary>
    /// <example>false</example>
    public required bool LeaseHeld { get; init; }

    /// <summary>What the process that answers has in memory.</summary>
    public required TierEntry Memory { get; init; }

    /// <summary>What Redis has.</summary>
    public required TierEntry Redis { get; init; }
}

/// <summary>The entry of an entity in one tier.</summary>
public sealed record TierEntry
{
    /// <summary>Whether there is anything that can be read.</summary>
    /// <example>true</example>
    public required bool Present { get; init; }

    /// <summary>
    /// <c>fresh</c>; <c>stale</c>: served only when the source is slow or fails; <c>negative</c>: "not found";
    /// <c>tombstone</c>: nothing is served, and older versions are kept out; <c>absent</c>; <c>unavailable</c>: Redis is away.
    /// </summary>
    /// <example>fresh</example>
    public required string State { get; init; }

    /// <summary>How long ago it was made.</summary>
    /// <example>12.5</example>
    public double? AgeSeconds { get; init; }

    /// <summary>For how long it is fresh still.</summary>
    /// <example>541.2</example>
    public double? TtlSeconds { get; init; }

    /// <summary>For how long it is of any use still.</summary>
    /// <example>4141.2</example>
    public double? UsableForSeconds { get; init; }

    /// <summary>In what time Redis drops it.</summary>
    /// <example>4141.2</example>
    public double? ExpiresInSeconds { get; init; }

    /// <summary>The version of the entry, or, of a tombstone, the version that it requires at least; 0 if the entity has none.</summary>
    /// <example>3</example>
    public long? Version { get; init; }

    /// <summary>Header and body.</summary>
    /// <example>311</example>
    public long? SizeBytes { get; init; }
}

/// <summary>What to warm a cache with: either <c>keys</c> or <c>top</c>.</summary>
public sealed record WarmCache
{
    /// <summary>The cache: <c>users</c>, <c>user-lists</c>, <c>geocoding</c> or <c>weather</c>.</summary>
    /// <example>users</example>
    [Required]
    public string Cache { get; init; } = "";

    /// <summary>
    /// 1 to 10,000 keys: ids of users; pages as <c>&lt;limit&gt;:&lt;after&gt;</c>; names of cities for <c>geocoding</c> and
    /// <c>weather</c>.
    /// </summary>
    /// <example>["01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f"]</example>
    public IReadOnlyList<string>? Keys { get; init; }

    /// <summary>How many of the most valuable entries, 1 to 10,000: the newest users, the first pages, the configured cities.</summary>
    public int? Top { get; init; }
}

/// <summary>How far the warming of a cache is.</summary>
public sealed record WarmingStatus
{
    /// <summary>The job.</summary>
    /// <example>01980c6e-8f00-7a10-8c3e-2f3a1b4c5d6e</example>
    public required string Id { get; init; }

    /// <summary>The cache.</summary>
    /// <example>users</example>
    public required string Cache { get; init; }

    /// <summary>
    /// <c>running</c>; <c>finished</c>, early where 20 loads in a row failed; or <c>lost</c>: its process has ended before it.
    /// </summary>
    /// <example>running</example>
    public required string State { get; init; }

    /// <summary>How many entries are to be loaded.</summary>
    /// <example>1000</example>
    public required int Total { get; init; }

    /// <summary>How many are loaded, or were cached before.</summary>
    /// <example>240</example>
    public required int Done { get; init; }

    /// <summary>How many could not be loaded; why is in the log.</summary>
    /// <example>0</example>
    public required int Failed { get; init; }

    /// <summary>When it began.</summary>
    public required DateTimeOffset StartedAt { get; init; }

    /// <summary>When it ended.</summary>
    public required DateTimeOffset? FinishedAt { get; init; }
}

[JsonSerializable(typeof(StoredEntry))]
[JsonSerializable(typeof(WarmCache))]
[JsonSerializable(typeof(WarmingStatus))]
internal sealed partial class CacheJson : JsonSerializerContext;

/// <summary>The administration of the caches: statistics, inspection, eviction and warming.</summary>
internal static class CacheEndpoints
{
    private const int MaxKeys = 10_000;

    /// <summary>So many keys are more than other requests may send.</summary>
    private const int MaxWarmBytes = 1024 * 1024;

    private const string KeysOfCaches = "The keys of users are UUIDs, those of user-lists <limit>:<after> with a limit from 1 to 100, "
        + "those of geocoding and weather names of cities.";

    public static void MapCacheAdministration(this IEndpointRouteBuilder routes)
    {
        var cache = routes.MapGroup("/cache").WithTags("Cache").RequireAuthorization("Admin").RequireRateLimit("default");

        // From now on it counts.
        routes.ServiceProvider.GetRequiredService<Measurements>();
        cache.MapGet("/stats", Stats).WithName("getCacheStats");
        cache.MapGet("/entries", Look).WithName("getCacheEntry")
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status404NotFound);
        cache.MapDelete("/entries", Evict).WithName("evictCacheEntry")
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status404NotFound);
        cache.MapDelete("/namespaces/{name}", Drop).WithName("clearCache").ProducesProblems(StatusCodes.Status404NotFound);
        cache.MapPost("/warm", Warm).WithName("warmCache").WithMetadata(new RequestSizeLimitAttribute(MaxWarmBytes))
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status409Conflict);
        cache.MapGet("/warm/{id}", FindWarming).WithName("getWarmingJob")
            .ProducesProblems(StatusCodes.Status400BadRequest, StatusCodes.Status404NotFound);
    }

    /// <summary>Says what the caches do: hits, misses, loads, latencies, evictions, Redis, the write-behind queue, the limits.</summary>
    /// <remarks>
    /// The numbers are those of the process that answers, which <c>instance</c> names, since it began; <c>/metrics</c> has the same for
    /// Prometheus. Only those of <c>redis</c> and the length of the queue are shared by all processes.
    /// </remarks>
    internal static Ok<CacheStats> Stats(CacheStatistics statistics) => TypedResults.Ok(statistics.Read());

    /// <summary>Says what each tier holds of one entry, never its body.</summary>
    /// <remarks>
    /// An entry that a tier does not have is <c>absent</c>. <c>memory</c> is that of the process that answers.
    /// </remarks>
    /// <param name="key" example="users:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f">
    /// <c>&lt;cache&gt;:&lt;id&gt;</c>, such as <c>users:01980c6e-…</c>, <c>user-lists:20:</c>, <c>geocoding:berlin</c> or
    /// <c>weather:52.52,13.41</c>; or the whole key as Redis has it, whose generation does not matter.
    /// </param>
    internal static async Task<Results<Ok<StoredEntry>, ValidationProblem, ProblemHttpResult>> Look(
        [Required, StringLength(500)] string key,
        IEnumerable<Cache> caches,
        RedisConnections redis,
        TimeProvider time,
        CancellationToken cancel)
    {
        if (Read(key, redis.KeyPrefix) is not var (name, id))
        {
            return NotAKey();
        }

        if (Find(caches, name) is not { } cache)
        {
            return NoSuchCache(caches);
        }

        var (now, found) = (time.GetUtcNow(), await cache.InspectAsync(id, cancel));
        return TypedResults.Ok(new StoredEntry
        {
            Cache = name,
            Id = id,
            RedisKey = found.Key,
            LeaseHeld = found.LeaseHeld,
            Memory = Shown(found.Memory, now, expiresIn: null),
            Redis = Shown(found.Redis, now, found.ExpiresIn),
        });
    }

    /// <summary>Evicts one entry from both tiers of every process.</summary>
    /// <remarks>
    /// The next read loads it. A load that is under way is not kept, and older versions stay kept out. What is not there is
    /// evicted too. While Redis is away the answer is 503: only the process that answers has dropped it then.
    /// </remarks>
    /// <param name="key" example="users:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f">
    /// <c>&lt;cache&gt;:&lt;id&gt;</c>, or the whole key as Redis has it.
    /// </param>
    internal static async Task<Results<NoContent, ValidationProblem, ProblemHttpResult>> Evict(
        [Required, StringLength(500)] string key, IEnumerable<Cache> caches, RedisConnections redis)
    {
        if (Read(key, redis.KeyPrefix) is not var (name, id))
        {
            return NotAKey();
        }

        if (Find(caches, name) is not { } cache)
        {
            return NoSuchCache(caches);
        }

        await cache.EvictAsync(id, CancellationToken.None);
        return TypedResults.NoContent();
    }

    /// <summary>Evicts a whole cache, however many entries it has, by a new generation of its keys.</summary>
    /// <remarks>While Redis is away that is remembered, and done before anything it holds is served again.</remarks>
    /// <param name="name" example="user-lists">The cache: <c>users</c>, <c>user-lists</c>, <c>geocoding</c> or <c>weather</c>.</param>
    internal static async Task<Results<NoContent, ProblemHttpResult>> Drop(string name, IEnumerable<Cache> caches)
    {
        if (Find(caches, name) is not { } cache)
        {
            return NoSuchCache(caches);
        }

        await cache.ClearAsync(CancellationToken.None);
        return TypedResults.NoContent();
    }

    /// <summary>Warms a cache: loads entries before they are requested.</summary>
    /// <remarks>
    /// They are loaded through the normal path, four at a time (of the weather one at a time), so what is cached already costs a
    /// look-up. The answer's <c>Location</c> says how far it is, for an hour. One job at a time warms a cache: another is a 409.
    /// </remarks>
    internal static async Task<Results<Accepted<WarmingStatus>, ValidationProblem, ProblemHttpResult>> Warm(
        WarmCache what, IEnumerable<Cache> caches, Warming warming, CancellationToken cancel)
    {
        var cache = Find(caches, what.Cache);
        if (Problem(what, cache, caches) is var (field, problem))
        {
            return TypedResults.ValidationProblem(new Dictionary<string, string[]> { [field] = [problem] });
        }

        var keys = what.Keys?.Distinct(StringComparer.Ordinal).ToArray() ?? await cache!.TopKeysAsync(what.Top!.Value, cancel);
        var (id, begun) = await warming.BeginAsync(cache!, keys, cancel);
        var location = $"/cache/warm/{id}";
        return begun && await warming.FindAsync(id, cancel) is var (job, running)
            ? TypedResults.Accepted(location, Shown(job, running))
            : TypedResults.Problem($"This cache is being warmed already: see {location}.", statusCode: StatusCodes.Status409Conflict);
    }

    /// <summary>Says how far the warming of a cache is.</summary>
    /// <param name="id">The job's id, from the answer that began it.</param>
    internal static async Task<Results<Ok<WarmingStatus>, ProblemHttpResult>> FindWarming(
        Guid id, Warming warming, CancellationToken cancel) =>
        await warming.FindAsync(id.ToString(), cancel) is var (job, running)
            ? TypedResults.Ok(Shown(job, running))
            : TypedResults.Problem(statusCode: StatusCodes.Status404NotFound);

    /// <summary>Reads <c>cache:id</c> or <c>prefix:cache:g123:id</c>; <c>null</c> where it is neither.</summary>
    private static (string Cache, string Id)? Read(string key, string prefix)
    {
        var inRedis = key.StartsWith($"{prefix}:", StringComparison.Ordinal);
        var parts = inRedis ? key.Split(':', 4) : key.Split(':', 2);
        return (inRedis, parts) switch
        {
            (true, [_, var cache, ['g', ..], { Length: > 0 } id]) => (cache, id),
            (false, [var cache, { Length: > 0 } id]) => (cache, id),
            _ => null,
        };
    }

    private static Cache? Find(IEnumerable<Cache> caches, string name) => caches.FirstOrDefault(cache => cache.Name == name);

    private static (string Field, string Problem)? Problem(WarmCache what, Cache? cache, IEnumerable<Cache> caches)
    {
        if (cache is null)
        {
            return ("cache", $"One of {Names(caches)}.");
        }

        if (what.Keys is null == what.Top is null)
        {
            return ("keys", "Either keys or top is expected.");
        }

        if (what.Top is < 1 or > MaxKeys)
        {
            return ("top", $"A number from 1 to {MaxKeys} is expected.");
        }

        if (what.Keys is { Count: < 1 or > MaxKeys })
        {
            return ("keys", $"From 1 to {MaxKeys} keys are expected.");
        }

        var bad = what.Keys?
            .Where(key => key is null || !cache.IsKey(key))
            .Select(key => $"'{key}' is no key of this cache. {KeysOfCaches}")
            .FirstOrDefault();
        return bad is null ? null : ("keys", bad);
    }

    private static TierEntry Shown(TierInspection tier, DateTimeOffset now, TimeSpan? expiresIn) => new()
    {
        Present = tier.Entry is not null,
        State = tier.State.ToString().ToLowerInvariant(),
        AgeSeconds = tier.Entry is { } entry ? Seconds(now - entry.Created) : null,
        TtlSeconds = tier.Entry is null ? null : Seconds(tier.FreshUntil - now),
        UsableForSeconds = tier.Entry is null ? null : Seconds(tier.UsableUntil - now),
        ExpiresInSeconds = expiresIn is { } left ? Seconds(left) : null,
        Version = tier.Entry?.Version,
        SizeBytes = tier.Entry is null ? null : tier.Size,
    };

    private static WarmingStatus Shown(WarmingJob job, bool running) => new()
    {
        Id = job.Id,
        Cache = job.Cache,
        State = running ? "running" : job.FinishedAt is null ? "lost" : "finished",
        Total = job.Total,
        Done = job.Done,
        Failed = job.Failed,
        StartedAt = job.StartedAt,
        FinishedAt = job.FinishedAt,
    };

    private static double Seconds(TimeSpan span) => Math.Round(Math.Max(0, span.TotalSeconds), 3);

    private static ValidationProblem NotAKey() => TypedResults.ValidationProblem(
        new Dictionary<string, string[]> { ["key"] = ["<cache>:<id> is expected, such as users:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f."] });

    private static string Names(IEnumerable<Cache> caches) => string.Join(", ", caches.Select(known => known.Name));

    private static ProblemHttpResult NoSuchCache(IEnumerable<Cache> caches) => TypedResults.Problem(
        $"There is no such cache; there are {Names(caches)}.", statusCode: StatusCodes.Status404NotFound);
}
