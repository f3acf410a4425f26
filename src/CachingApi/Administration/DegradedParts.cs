using CachingApi.Caching;
using CachingApi.Caching.Operations;
using CachingApi.Redis;

namespace CachingApi.Administration;

/// <summary>A part of the service that does not work at present, and the effect on users.</summary>
public sealed record DegradedPart
{
    /// <summary>The part.</summary>
    /// <example>Redis (cache)</example>
    public required string Part { get; init; }

    /// <summary>The problem of this part.</summary>
    /// <example>It does not answer, so it is left alone (its circuit is open).</example>
    public required string Problem { get; init; }

    /// <summary>The effect on users.</summary>
    /// <example>Reads are answered from memory or from the source, so they are slower.</example>
    public required string Effect { get; init; }
}

/// <summary>Finds the degraded parts from states that this process knows. It calls no server, so a frozen one delays no answer.</summary>
internal sealed class DegradedParts(IEnumerable<Cache> caches, RedisConnections connections, RedisInfo servers, CachingHealth caching)
{
    private const string FromSource =
        "Reads are answered from memory or from the source, so they are slower; beyond the bound on concurrent loads the answer is 503. "
        + "Writes are committed.";

    /// <summary>Whether the state's Redis does not answer, so that the last state read from it is not current.</summary>
    public bool IsStateAway => connections.IsStateLeftAlone || AreAllDown("state");

    /// <param name="circuitOpen">Whether the circuit of the cache's Redis is open.</param>
    /// <param name="isPostgresUp">Whether PostgreSQL answered last; <c>null</c> if it has not been asked yet.</param>
    public IEnumerable<DegradedPart> Find(bool circuitOpen, bool? isPostgresUp)
    {
        var isCacheAway = circuitOpen || AreAllDown("cache");
        if (isCacheAway)
        {
            var problem = circuitOpen ? "It does not answer, so it is left alone (its circuit is open)." : "It does not answer.";
            yield return Part("Redis (cache)", problem, FromSource);
        }
        else if (!caching.IsRedisInUse)
        {
            yield return Part("Redis (cache)", "It is not used yet, because it may hold entries that have been invalidated.", FromSource);
        }

        if (IsStateAway)
        {
            yield return Part(
                "Redis (state)",
                "It does not answer.",
                "Sessions cannot be checked: users cannot log in, and a request that needs a session is answered with 503. "
                + "Each process counts limits on its own, and nothing is written behind.");
        }

        foreach (var node in servers.Nodes.Where(node => !node.Up && !(node.Role is "cache" ? isCacheAway : IsStateAway)))
        {
            yield return Part(
                $"Redis server {node.Node} ({node.Role})",
                "It does not answer, and other servers do.",
                "If it is a replica, users notice nothing. If it is a master, its keys are not available.");
        }

        if (isPostgresUp is false)
        {
            yield return Part(
                "PostgreSQL",
                "It does not answer.",
                "Cached entries are served, and marked as stale after their time. Requests that need the database get 503. "
                + "Changes that are written behind are accepted, and persisted later.");
        }

        foreach (var cache in caches.Where(cache => cache.WriteBehindDisabledReason is not null && !IsStateAway))
        {
            yield return Part(
                $"Write-behind of {cache.Name}",
                $"It is refused, because {cache.WriteBehindDisabledReason}.",
                "Changes are written through: the answer to each waits for the database.");
        }
    }

    /// <summary>Whether there are servers of a role, and none answers. One server for both is the cache's and the state's.</summary>
    private bool AreAllDown(string role)
    {
        var nodes = servers.Nodes;
        var known = nodes.Where(node => node.Role == role).ToArray();
        known = known.Length == 0 ? [.. nodes] : known;
        return known.Length > 0 && known.All(node => !node.Up);
    }

    private static DegradedPart Part(string part, string problem, string effect) =>
        new() { Part = part, Problem = problem, Effect = effect };
}
