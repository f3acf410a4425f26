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

    /// <summary>The entry's key in Redis, with the current generation; <c>null</c> while Redis is away.</summary>
    /// <example>cachingapi:users:g1796000000000:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required string? RedisKey { get; init; }

    /// <summary>Whether a process is loading the entity now.</summary>
    /// <example>false</example>
    public required bool LeaseHeld { get; init; }

    /// <summary>The entry in the memory of the process that answers.</summary>
    public required TierEntry Memory { get; init; }

    /// <summary>The entry in Redis.</summary>
    public required TierEntry Redis { get; init; }
}

/// <summary>The entry of an entity in one tier.</summary>
public sealed record TierEntry
{
    /// <summary>Whether the tier has an entry that can be read.</summary>
    /// <example>true</example>
    public required bool Present { get; init; }

    /// <summary>
    /// <c>fresh</c>; <c>stale</c>: served only when the source is slow or fails; <c>negative</c>: "not found";
    /// <c>tombstone</c>: nothing is served, and older versions are kept out; <c>absent</c>; <c>unavailable</c>: Redis is away.
    /// </summary>
    /// <example>fresh</example>
    public required string State { get; init; }

    /// <summary>How long ago the entry was made.</summary>
    /// <example>12.5</example>
    public double? AgeSeconds { get; init; }

    /// <summary>For how long the entry is still fresh.</summary>
    /// <example>541.2</example>
    public double? TtlSeconds { get; init; }

    /// <summary>For how long the entry can still be served, fresh or stale.</summary>
    /// <example>4141.2</example>
    public double? UsableForSeconds { get; init; }

    /// <summary>The time until Redis removes the entry.</summary>
    /// <example>4141.2</example>
    public double? ExpiresInSeconds { get; init; }

    /// <summary>The version of the entry; for a tombstone, the lowest version that it admits. 0 if the entity has no versions.</summary>
    /// <example>3</example>
    public long? Version { get; init; }

    /// <summary>The size of the entry, header and body.</summary>
    /// <example>311</example>
    public long? SizeBytes { get; init; }
}

/// <summary>The entries to warm a cache with: either <c>keys</c> or <c>top</c>.</summary>
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

    /// <summary>
    /// How many of the most useful entries to load, 1 to 10,000: the newest users, the first pages, the configured cities.
    /// </summary>
    public int? Top { get; init; }
}

/// <summary>The progress of a warming job.</summary>
public sealed record WarmingStatus
{
    /// <summary>The job's id.</summary>
    /// <example>01980c6e-8f00-7a10-8c3e-2f3a1b4c5d6e</example>
    public required string Id { get; init; }

    /// <summary>The cache.</summary>
    /// <example>users</example>
    public required string Cache { get; init; }

    /// <summary>
    /// <c>running</c>; <c>finished</c>, early if 20 loads in a row failed; or <c>lost</c>: its process ended before the job.
    /// </summary>
    /// <example>running</example>
    public required string State { get; init; }

    /// <summary>How many entries are to be loaded.</summary>
    /// <example>1000</example>
    public required int Total { get; init; }

    /// <summary>How many entries are loaded, or were already cached.</summary>
    /// <example>240</example>
    public required int Done { get; init; }

    /// <summary>How many entries could not be loaded; the log has the reasons.</summary>
    /// <example>0</example>
    public required int Failed { get; init; }

    /// <summary>
    /// How many of those that are done the cache has. It does not keep an entry while Redis is not in use, an entry that is too large, and
    /// one that a write has superseded; the log gives the reason.
    /// </summary>
    /// <example>240</example>
    public required int Kept { get; init; }

    /// <summary>When the job began.</summary>
    public required DateTimeOffset StartedAt { get; init; }

    /// <summary>When the job ended; <c>null</c> if it has not.</summary>
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

    /// <summary>The size limit of a warming request: its keys need more than the limit of other requests.</summary>
    private const int MaxWarmBytes = 1024 * 1024;

    public static void MapCacheAdministration(this IEndpointRouteBuilder routes)
    {
        var group = routes.MapGroup("/cache").WithTags("Cache").RequireAuthorization("Admin");

        // It starts to count when it is created.
        routes.ServiceProvider.GetRequiredService<Measurements>();

        // Permits of its own: the live page must not go dark because its user's other requests have used up theirs.
        group.MapGet("/stats", Stats).WithName("getCacheStats").RequireRateLimit("cache-stats");
        group.MapGet("/stats/processes", AllStats).WithName("getCacheStatsOfAllProcesses").RequireRateLimit("cache-stats");
        group.MapGet("/stats/history", History).WithName("getCacheStatsHistory").RequireRateLimit("cache-stats");
        var cache = group.MapGroup("").RequireRateLimit("default");
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

    /// <summary>
    /// Returns the statistics of the caches: hits, misses, loads, latencies, evictions, Redis, the write-behind queue, the limits.
    /// </summary>
    /// <remarks>
    /// The numbers cover the process that answers (<c>instance</c>) since its start. <c>/metrics</c> has the same numbers for Prometheus.
    /// All processes share only the numbers of <c>redis</c> and the length of the queue.
    /// </remarks>
    internal static Ok<CacheStats> Stats(CacheStatistics statistics) => TypedResults.Ok(statistics.Read());

    /// <summary>Returns the statistics of each process that uses the same Redis.</summary>
    /// <remarks>The process that answers asks the others over pub/sub of the state's Redis, and waits for half a second at most.</remarks>
    internal static async Task<Ok<AllCacheStats>> AllStats(StatsExchange exchange, CancellationToken cancel) =>
        TypedResults.Ok(await exchange.AskAsync(cancel));

    /// <summary>Returns the statistics of each process in the last 15 minutes.</summary>
    /// <remarks>As for the current ones, the process that answers asks the others.</remarks>
    internal static async Task<Ok<CacheStatsHistory[]>> History(StatsExchange exchange, CancellationToken cancel) =>
        TypedResults.Ok(await exchange.AskForHistoryAsync(cancel));

    /// <summary>Returns the state of one entry in each tier, never its body.</summary>
    /// <remarks>
    /// If a tier does not have the entry, its state is <c>absent</c>. <c>memory</c> is the memory of the process that answers.
    /// </remarks>
    /// <param name="key" example="users:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f">
    /// <c>&lt;cache&gt;:&lt;id&gt;</c>, such as <c>users:01980c6e-…</c>, <c>user-lists:20:</c>, <c>geocoding:berlin</c> or
    /// <c>weather:52.52,13.41</c>; or the whole key in Redis, with any generation.
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
    /// The next read loads the entry. A load under way is not cached, and older versions are still kept out. The answer is 204 even if no
    /// tier has the entry. While Redis is away, the answer is 503: only the process that answers has evicted the entry.
    /// </remarks>
    /// <param name="key" example="users:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f">
    /// <c>&lt;cache&gt;:&lt;id&gt;</c>, or the whole key in Redis.
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

    /// <summary>Evicts a whole cache at once, by a new generation of its keys.</summary>
    /// <remarks>While Redis is away, the eviction is queued, and done before any entry in Redis is served again.</remarks>
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
    /// The entries are loaded through the normal path, four at a time (weather: one at a time), so an entry that is already cached costs
    /// one look-up. For an hour, the answer's <c>Location</c> returns the progress. If another job is warming the cache, the answer is 409.
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
            : TypedResults.Problem($"Another job is warming this cache: see {location}.", statusCode: StatusCodes.Status409Conflict);
    }

    /// <summary>Returns the progress of a warming job.</summary>
    /// <param name="id">The job's id, from the answer that started it.</param>
    internal static async Task<Results<Ok<WarmingStatus>, ProblemHttpResult>> FindWarming(
        Guid id, Warming warming, CancellationToken cancel) =>
        await warming.FindAsync(id.ToString(), cancel) is var (job, running)
            ? TypedResults.Ok(Shown(job, running))
            : TypedResults.Problem(statusCode: StatusCodes.Status404NotFound);

    /// <summary>Reads <c>cache:id</c> or <c>prefix:cache:g123:id</c>; <c>null</c> if the key is neither.</summary>
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
            return ("cache", $"The cache does not exist. The caches are {Names(caches)}.");
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
            .Select(key => $"'{key}' is not a key of this cache. {cache.KeyForm} is expected.")
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
        Kept = job.Kept,
        StartedAt = job.StartedAt,
        FinishedAt = job.FinishedAt,
    };

    private static double Seconds(TimeSpan span) => Math.Round(Math.Max(0, span.TotalSeconds), 3);

    private static ValidationProblem NotAKey() => TypedResults.ValidationProblem(
        new Dictionary<string, string[]> { ["key"] = ["<cache>:<id> is expected, such as users:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f."] });

    private static string Names(IEnumerable<Cache> caches) => string.Join(", ", caches.Select(known => known.Name));

    private static ProblemHttpResult NoSuchCache(IEnumerable<Cache> caches) => TypedResults.Problem(
        $"The cache does not exist. The caches are {Names(caches)}.", statusCode: StatusCodes.Status404NotFound);
}
