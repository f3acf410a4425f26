using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Caching.Operations;

/// <summary>
/// The part of the engine that change data capture uses besides the caches: whether Redis can take changes, whether it has all of them,
/// and up to which position it has them.
/// </summary>
public sealed class SourceChanges
{
    private const int PollMilliseconds = 50, MaxPolls = 100, MaxPollsUnreachable = 5;

    private static readonly string Move = Lua.Load(typeof(SourceChanges), "change_position.lua");

    private readonly RedisConnections _redis;
    private readonly RedisTier _tier;
    private readonly AutoRecoveryQueue _queue;
    private readonly Incarnations _incarnations;

    internal SourceChanges(RedisConnections redis, RedisTier tier, AutoRecoveryQueue queue, Incarnations incarnations) =>
        (_redis, _tier, _queue, _incarnations) = (redis, tier, queue, incarnations);

    /// <summary>Whether Redis answers and has every invalidation of this process.</summary>
    public bool CanApply => _tier.IsTrusted || !_tier.IsConfigured;

    /// <summary>Records the incarnation of the source. Each cache that has not seen it before is cleared once.</summary>
    public void LearnIncarnation(string system, uint timeline) => _incarnations.LearnPostgres(system, timeline);

    /// <summary>
    /// The positions up to which the shards of the cache's Redis have the changes; <c>null</c> for a shard that has none.
    /// </summary>
    public async Task<IReadOnlyList<string?>> PositionsAsync(CancellationToken cancel) =>
        Array.ConvertAll(
            await Task.WhenAll(Keys().Select(key => _redis.Cache.StringGetAsync(key))).WaitAsync(cancel),
            position => (string?)position);

    /// <summary>Sets the position on every shard.</summary>
    public Task SetPositionAsync(string position, CancellationToken cancel) =>
        Task.WhenAll(Keys().Select(key => _redis.Cache.StringSetAsync(key, position))).WaitAsync(cancel);

    /// <summary>Moves the position on every shard.</summary>
    /// <exception cref="UnavailableException">A shard has another position: it was restarted from a snapshot, or replaced.</exception>
    public async Task MovePositionAsync(string from, string to, CancellationToken cancel)
    {
        var moved = await Task.WhenAll(Keys().Select(key => _redis.Cache.ScriptEvaluateAsync(Move, [key], [from, to]))).WaitAsync(cancel);
        if (moved.Any(result => (int)result == 0))
        {
            throw new UnavailableException("The position of change capture in Redis");
        }
    }

    /// <summary>
    /// Ends when Redis has every invalidation of this process. Invalidations that are still in the queue would be lost with the process,
    /// and the source would not send those changes again.
    /// </summary>
    /// <exception cref="UnavailableException">Redis does not answer: another process may reach it.</exception>
    public async Task WaitForRedisAsync(CancellationToken cancel)
    {
        for (var polls = 0; !_queue.IsEmpty; polls++)
        {
            if (polls >= MaxPollsUnreachable && !_tier.IsReachable || polls >= MaxPolls)
            {
                throw new UnavailableException("Redis");
            }

            await Task.Delay(TimeSpan.FromMilliseconds(PollMilliseconds), cancel);
        }
    }

    private IReadOnlyList<RedisKey> Keys() => !_redis.IsConfigured ? [] : _redis.KeysOnShards("change-position");
}
