using System.Text.Json.Serialization;
using CachingApi.Caching;
using CachingApi.Caching.Operations;
using CachingApi.Redis;

namespace CachingApi.Administration;

/// <summary>
/// The statistics of the caches. They cover the process that answers, since its start. <c>redis</c> has each server's own numbers since
/// that server's start. All processes share the queue of <c>writeBehind</c>.
/// </summary>
public sealed record CacheStats
{
    /// <summary>The process that answers: host and process id. Behind a load balancer, each answer may come from another process.</summary>
    /// <example>api-1:1</example>
    public required string Instance { get; init; }

    /// <summary>When the process began.</summary>
    public required DateTimeOffset StartedAt { get; init; }

    /// <summary>When the statistics were read.</summary>
    public required DateTimeOffset At { get; init; }

    /// <summary>The length of the window of the recent latencies.</summary>
    /// <example>60</example>
    public required int RecentSeconds { get; init; }

    /// <summary>The parts that do not work at present, with the effect on users; empty if all work.</summary>
    public required IReadOnlyList<DegradedPart> Degraded { get; init; }

    /// <summary>The counts of each cache.</summary>
    public required IReadOnlyList<CacheCounts> Caches { get; init; }

    /// <summary>The latencies of the operations on the tiers, over all caches.</summary>
    public required IReadOnlyList<OperationLatency> Operations { get; init; }

    /// <summary>Whether the circuit breaker of the cache's Redis is open, so that this process sends it no commands.</summary>
    /// <example>false</example>
    public required bool CircuitOpen { get; init; }

    /// <summary>Whether this process is the leader of change data capture: it applies the database's changes for all processes.</summary>
    /// <example>true</example>
    public required bool FollowsChanges { get; init; }

    /// <summary>Each Redis server, as it reported a few seconds ago at most.</summary>
    public required IReadOnlyList<RedisStats> Redis { get; init; }

    /// <summary>The queue of writes that are acknowledged and not persisted yet; <c>null</c> if its state is not known.</summary>
    public required WriteBehindCounts? WriteBehind { get; init; }

    /// <summary>The decisions of the rate limits, by policy.</summary>
    public required IReadOnlyList<LimitCounts> Limits { get; init; }
}

/// <summary>The counts of one cache.</summary>
public sealed record CacheCounts
{
    /// <summary>The cache's name.</summary>
    /// <example>users</example>
    public required string Cache { get; init; }

    /// <summary>The share of the look-ups of clients that memory or Redis answered; <c>null</c> before the first look-up.</summary>
    /// <example>0.97</example>
    public required double? HitRatio { get; init; }

    /// <summary>Callers that shared another caller's load.</summary>
    /// <example>120</example>
    public required long Coalesced { get; init; }

    /// <summary>Loaded values that the cache did not keep, because a newer write was known.</summary>
    /// <example>0</example>
    public required long RefusedFills { get; init; }

    /// <summary>Memory, Redis and the source, in the order in which they are asked.</summary>
    public required IReadOnlyList<TierCounts> Tiers { get; init; }

    /// <summary>Its write-behind queue; <c>null</c> if it has none, or if the queue's state is not known.</summary>
    public required WriteBehindCounts? WriteBehind { get; init; }

    /// <summary>The keys that the process has read most in the last minute, at most ten; empty in a history.</summary>
    public required IReadOnlyList<HotKeyCounts> HotKeys { get; init; }

    /// <summary>Its last warm-up in the process that answers, at start or by a job; <c>null</c> if there was none.</summary>
    public required WarmUpCounts? WarmUp { get; init; }
}

/// <summary>A key that is read often.</summary>
public sealed record HotKeyCounts
{
    /// <summary>The entity's id within the cache.</summary>
    /// <example>01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required string Id { get; init; }

    /// <summary>The estimated number of reads per second.</summary>
    /// <example>42.5</example>
    public required double PerSecond { get; init; }
}

/// <summary>The result of a warm-up so far.</summary>
public sealed record WarmUpCounts
{
    /// <summary>How many entries were to be loaded.</summary>
    /// <example>1000</example>
    public required int Total { get; init; }

    /// <summary>How many were loaded, or were cached before.</summary>
    /// <example>1000</example>
    public required int Done { get; init; }

    /// <summary>
    /// How many of those the cache kept. It keeps no entry while Redis is not in use, no entry that is too large, and none that a write
    /// has superseded.
    /// </summary>
    /// <example>1000</example>
    public required int Kept { get; init; }

    /// <summary>How many could not be loaded.</summary>
    /// <example>0</example>
    public required int Failed { get; init; }

    /// <summary>When it began.</summary>
    public required DateTimeOffset StartedAt { get; init; }

    /// <summary>When it ended; <c>null</c> while it runs.</summary>
    public required DateTimeOffset? FinishedAt { get; init; }
}

/// <summary>The counts of one tier of a cache.</summary>
public sealed record TierCounts
{
    /// <summary><c>memory</c>, <c>redis</c> or <c>source</c>.</summary>
    /// <example>memory</example>
    public required string Tier { get; init; }

    /// <summary>Look-ups that found a fresh entry, negative ones included; of the source, successful loads.</summary>
    /// <example>9700</example>
    public required long Hits { get; init; }

    /// <summary>How many of the hits were negative entries ("not found").</summary>
    /// <example>12</example>
    public required long Negative { get; init; }

    /// <summary>Look-ups that found no usable entry.</summary>
    /// <example>300</example>
    public required long Misses { get; init; }

    /// <summary>Look-ups that were answered with a stale entry, because the source was slow or failed.</summary>
    /// <example>0</example>
    public required long StaleServed { get; init; }

    /// <summary>Look-ups that the tier did not answer; of the source, loads that failed.</summary>
    /// <example>0</example>
    public required long Errors { get; init; }

    /// <summary>The share of hits in all look-ups; <c>null</c> before the first look-up.</summary>
    /// <example>0.97</example>
    public required double? HitRatio { get; init; }

    /// <summary>Of the source: the number of loads.</summary>
    /// <example>300</example>
    public long? Loads { get; init; }

    /// <summary>Of memory: how many entries it has.</summary>
    /// <example>1000</example>
    public long? Entries { get; init; }

    /// <summary>Of memory: how many entries were evicted to make room for others.</summary>
    /// <example>0</example>
    public long? Evictions { get; init; }

    /// <summary>
    /// Of the source: the latency of this cache's loads. Of memory and Redis: the latency of look-ups over all caches (in memory, of a
    /// sample of them). <c>null</c> before the first one.
    /// </summary>
    public Latency? Latency { get; init; }
}

/// <summary>The latency of one operation.</summary>
public sealed record OperationLatency
{
    /// <summary>The tier.</summary>
    /// <example>redis</example>
    public required string Tier { get; init; }

    /// <summary>The operation, such as <c>get</c>, <c>set</c> or <c>lease</c>.</summary>
    /// <example>get</example>
    public required string Operation { get; init; }

    /// <summary>The latency.</summary>
    public required Latency Latency { get; init; }
}

/// <summary>Latencies in milliseconds, with an error of 10 % at most.</summary>
public sealed record Latency
{
    /// <summary>How many were measured in the window of <c>recentSeconds</c>.</summary>
    /// <example>512</example>
    public required long RecentCount { get; init; }

    /// <summary>The median of the recent ones.</summary>
    /// <example>0.12</example>
    public required double? RecentP50 { get; init; }

    /// <summary>The 99th percentile of the recent ones.</summary>
    /// <example>0.9</example>
    public required double? RecentP99 { get; init; }

    /// <summary>How many were measured since the start of the process.</summary>
    /// <example>10512</example>
    public required long Count { get; init; }

    /// <summary>The median since the start.</summary>
    /// <example>0.12</example>
    public required double? P50 { get; init; }

    /// <summary>The 99th percentile since the start.</summary>
    /// <example>0.9</example>
    public required double? P99 { get; init; }
}

/// <summary>One Redis server, as its <c>INFO</c> reports it; <c>null</c> for each field that it does not report.</summary>
public sealed record RedisStats
{
    /// <summary>Its address.</summary>
    /// <example>redis:6379</example>
    public required string Node { get; init; }

    /// <summary><c>cache</c> or <c>state</c>; <c>cache</c> if one server is both.</summary>
    /// <example>cache</example>
    public required string Role { get; init; }

    /// <summary>Whether it answers.</summary>
    /// <example>true</example>
    public required bool Up { get; init; }

    /// <summary>The memory that it uses.</summary>
    /// <example>1500000</example>
    public required double? MemoryBytes { get; init; }

    /// <summary>The most memory that it may use; 0 means unlimited.</summary>
    /// <example>268435456</example>
    public required double? MaxMemoryBytes { get; init; }

    /// <summary>The eviction policy when that memory is used up.</summary>
    /// <example>allkeys-lfu</example>
    public required string? MaxMemoryPolicy { get; init; }

    /// <summary>How many keys it holds; <c>null</c> if it does not answer.</summary>
    /// <example>1200</example>
    public required long? Keys { get; init; }

    /// <summary>How many keys were evicted to make room for others.</summary>
    /// <example>0</example>
    public required double? EvictedKeys { get; init; }

    /// <summary>How many keys have expired.</summary>
    /// <example>40</example>
    public required double? ExpiredKeys { get; init; }

    /// <summary>How many bytes it has received.</summary>
    /// <example>52000000</example>
    public required double? NetworkInBytes { get; init; }

    /// <summary>How many bytes it has sent.</summary>
    /// <example>91000000</example>
    public required double? NetworkOutBytes { get; init; }
}

/// <summary>A write-behind queue, or all of them together.</summary>
public sealed record WriteBehindCounts
{
    /// <summary>How many writes are not persisted yet.</summary>
    /// <example>0</example>
    public required long QueueLength { get; init; }

    /// <summary>The age of the oldest of them.</summary>
    /// <example>0</example>
    public required double LagSeconds { get; init; }

    /// <summary>How many writes could not be persisted and wait for an operator.</summary>
    /// <example>0</example>
    public required long DeadLetters { get; init; }
}

/// <summary>The decisions of one policy.</summary>
public sealed record LimitCounts
{
    /// <summary>The policy.</summary>
    /// <example>default</example>
    public required string Policy { get; init; }

    /// <summary>Decisions to allow a request. A request may need two: <c>weather</c> decides again on a miss.</summary>
    /// <example>1000</example>
    public required long Allowed { get; init; }

    /// <summary>Decisions of Redis to deny a request.</summary>
    /// <example>3</example>
    public required long Denied { get; init; }

    /// <summary>Decisions to deny a request from memory, because the same partition was denied shortly before.</summary>
    /// <example>20</example>
    public required long DeniedLocally { get; init; }

    /// <summary>Decisions without Redis.</summary>
    /// <example>0</example>
    public required long Fallback { get; init; }
}

/// <summary>The statistics of all processes.</summary>
public sealed record AllCacheStats
{
    /// <summary>The statistics of each process, by the name of the process.</summary>
    public required IReadOnlyList<CacheStats> Processes { get; init; }

    /// <summary>
    /// Whether every process that has answered before, or listens now, is in the list. <c>false</c> while Redis is away: then the list has
    /// only the process that answers.
    /// </summary>
    /// <example>true</example>
    public required bool Complete { get; init; }
}

/// <summary>The statistics of one process in the last 15 minutes.</summary>
public sealed record CacheStatsHistory
{
    /// <summary>The process.</summary>
    /// <example>api-1:1</example>
    public required string Instance { get; init; }

    /// <summary>The statistics, every ten seconds, the oldest first.</summary>
    public required IReadOnlyList<CacheStats> Stats { get; init; }
}

[JsonSerializable(typeof(CacheStats))]
[JsonSerializable(typeof(AllCacheStats))]
[JsonSerializable(typeof(CacheStatsHistory[]))]
internal sealed partial class CacheStatsJson : JsonSerializerContext;

/// <summary>Makes <see cref="CacheStats"/> from the metrics.</summary>
internal sealed class CacheStatistics(
    IEnumerable<Cache> caches, Measurements measurements, RedisInfo redis, Warming warming, DegradedParts degraded, TimeProvider time)
{
    private const int MaxHotKeys = 10;

    public static readonly string Instance = $"{Environment.MachineName}:{Environment.ProcessId}";

    public CacheStats Read()
    {
        var samples = measurements.Read();
        var circuitOpen = Sum(samples, "cache_circuit_open") > 0;
        return new()
        {
            Instance = Instance,
            StartedAt = measurements.Since,
            At = time.GetUtcNow(),
            RecentSeconds = (int)Measurements.Window.TotalSeconds,
            Degraded =
            [
                .. degraded.Find(circuitOpen, samples.FirstOrDefault(sample => sample.Name == "pg_up") is { } up ? up.Value > 0 : null),
            ],
            Caches = [.. caches.Select(cache => Counts(cache, samples))],
            Operations =
            [
                .. samples.Where(sample => sample.Name == "cache_operation_duration")
                    .Select(sample => new OperationLatency
                    {
                        Tier = sample.Labels["tier"],
                        Operation = sample.Labels["operation"],
                        Latency = LatencyOf(sample),
                    })
                    .OrderBy(operation => operation.Tier).ThenBy(operation => operation.Operation),
            ],
            CircuitOpen = circuitOpen,
            FollowsChanges = Sum(samples, "change_capture_follows") > 0,
            Redis = [.. redis.Nodes.Select(ServerOf)],
            WriteBehind = WriteBehindOf(samples),
            Limits =
            [
                .. samples
                    .Where(sample => sample.Name == "rate_limit_decisions")
                    .Select(sample => sample.Labels["policy"])
                    .Distinct()
                    .Order()
                    .Select(policy => new LimitCounts
                    {
                        Policy = policy,
                        Allowed = Decisions(policy, "allowed"),
                        Denied = Decisions(policy, "denied"),
                        DeniedLocally = Decisions(policy, "denied_local"),
                        Fallback = Decisions(policy, "fallback"),
                    }),
            ],
        };

        long Decisions(string policy, string outcome) => Sum(samples, "rate_limit_decisions", ("policy", policy), ("outcome", outcome));
    }

    /// <summary>The queues together, or that of one cache; <c>null</c> while the last known state is not current.</summary>
    private WriteBehindCounts? WriteBehindOf(Sample[] samples, string? cache = null)
    {
        if (degraded.IsStateAway)
        {
            return null;
        }

        Sample[] Of(string name) => [.. samples.Where(sample => sample.Name == name && (cache is null || sample.Labels["cache"] == cache))];
        return Of("write_behind_queue_length") is not { Length: > 0 } lengths ? null : new()
        {
            QueueLength = (long)lengths.Sum(sample => sample.Value),
            LagSeconds = Of("write_behind_lag").Max(sample => sample.Value),
            DeadLetters = (long)Of("write_behind_dead_letters").Sum(sample => sample.Value),
        };
    }

    private CacheCounts Counts(Cache counted, Sample[] samples)
    {
        var cache = counted.Name;
        var loads = samples.FirstOrDefault(sample => sample.Name == "cache_load_duration" && sample.Labels["cache"] == cache);
        var memory = CountsOf(cache, "memory", samples) with
        {
            Latency = LatencyOfGets("memory", samples),
            Entries = Sum(samples, "cache_entries", ("cache", cache)),
            Evictions = Sum(samples, "cache_evictions", ("cache", cache)),
        };
        var redis = CountsOf(cache, "redis", samples) with { Latency = LatencyOfGets("redis", samples) };
        var source = CountsOf(cache, "source", samples) with
        {
            Loads = Sum(samples, "cache_loads", ("cache", cache)),
            Latency = loads is null ? null : LatencyOf(loads),
        };
        var served = memory.Hits + redis.Hits + redis.StaleServed;
        return new()
        {
            Cache = cache,
            // A miss in memory is a look-up in Redis: it is counted there.
            HitRatio = Ratio(served, memory.Hits + redis.Hits + redis.Misses + redis.StaleServed + redis.Errors),
            Coalesced = Sum(samples, "cache_coalesced", ("cache", cache)),
            RefusedFills = Sum(samples, "cache_refused_fills", ("cache", cache)),
            Tiers = [memory, redis, source],
            WriteBehind = WriteBehindOf(samples, cache),
            HotKeys = [.. counted.HotKeys(MaxHotKeys).Select(
                key => new HotKeyCounts { Id = key.Id, PerSecond = Math.Round(key.PerSecond, 2) })],
            WarmUp = warming.FindLast(counted) is { } job ? CountsOf(job) : null,
        };
    }

    private static WarmUpCounts CountsOf(WarmingJob job) => new()
    {
        Total = job.Total,
        Done = job.Done,
        Kept = job.Kept,
        Failed = job.Failed,
        StartedAt = job.StartedAt,
        FinishedAt = job.FinishedAt,
    };

    private static TierCounts CountsOf(string cache, string tier, Sample[] samples)
    {
        var (hits, negative, misses) = (Count("hit"), Count("negative"), Count("miss"));
        var (stale, errors) = (Count("stale"), Count("error"));
        return new()
        {
            Tier = tier,
            Hits = hits + negative,
            Negative = negative,
            Misses = misses,
            StaleServed = stale,
            Errors = errors,
            HitRatio = Ratio(hits + negative, hits + negative + misses + stale + errors),
        };

        long Count(string result) => Sum(samples, "cache_requests", ("cache", cache), ("tier", tier), ("result", result));
    }

    private static Latency? LatencyOfGets(string tier, Sample[] samples) =>
        samples.FirstOrDefault(
            sample => sample.Name == "cache_operation_duration"
                && sample.Labels["tier"] == tier
                && sample.Labels["operation"] == "get") is { } gets
            ? LatencyOf(gets)
            : null;

    private static RedisStats ServerOf(RedisNode node)
    {
        double? Field(string name) => node.Fields.TryGetValue(name, out var value) ? value : null;
        return new()
        {
            Node = node.Node,
            Role = node.Role,
            Up = node.Up,
            MemoryBytes = Field("used_memory"),
            MaxMemoryBytes = Field("maxmemory"),
            MaxMemoryPolicy = node.EvictionPolicy,
            Keys = node.Up ? node.Keys.Values.Sum(database => database.Count) : null,
            EvictedKeys = Field("evicted_keys"),
            ExpiredKeys = Field("expired_keys"),
            NetworkInBytes = Field("total_net_input_bytes"),
            NetworkOutBytes = Field("total_net_output_bytes"),
        };
    }

    private static long Sum(Sample[] samples, string name, params ReadOnlySpan<(string Name, string Value)> labels)
    {
        var sum = 0.0;
        foreach (var sample in samples)
        {
            if (sample.Name == name && Has(sample, labels))
            {
                sum += sample.Value;
            }
        }

        return (long)sum;
    }

    private static bool Has(Sample sample, ReadOnlySpan<(string Name, string Value)> labels)
    {
        foreach (var (name, value) in labels)
        {
            if (sample.Labels.GetValueOrDefault(name) != value)
            {
                return false;
            }
        }

        return true;
    }

    private static Latency LatencyOf(Sample sample) => new()
    {
        RecentCount = sample.Recent.Count,
        RecentP50 = Milliseconds(sample.Recent.P50),
        RecentP99 = Milliseconds(sample.Recent.P99),
        Count = sample.Total.Count,
        P50 = Milliseconds(sample.Total.P50),
        P99 = Milliseconds(sample.Total.P99),
    };

    private static double? Milliseconds(double? seconds) => seconds is { } some ? Math.Round(some * 1000, 4) : null;

    private static double? Ratio(long part, long whole) => whole == 0 ? null : Math.Round((double)part / whole, 4);
}
