namespace CachingApi.Caching;

/// <summary>
/// The incarnations of the servers that the cache depends on, each by a unique id. A server that was restarted from a snapshot, a
/// replica that was promoted, and a state server that lost its data are new incarnations. Each cache then moves to a new generation
/// once (see <c>generation.lua</c>) before any of its entries is served.
/// </summary>
internal sealed class Incarnations(SeenRevisions seen)
{
    private readonly Lock _lock = new();
    private volatile IReadOnlyList<string> _known = [];
    private volatile bool _redisKnown;
    private IReadOnlyList<string> _redis = [];
    private IReadOnlyList<string> _state = [];
    private IReadOnlyList<string> _postgres = [];

    /// <summary>Whether the incarnation of the cache's Redis that this process is connected to is known.</summary>
    public bool IsRedisKnown => _redisKnown;

    /// <summary>Whether the engine's services have been started. Before that, no incarnation is known.</summary>
    public bool IsStarted { get; set; }

    public IReadOnlyList<string> Known => _known;

    /// <summary>Called when the connection to the cache's Redis was lost: the next one may lead to another incarnation.</summary>
    public void ForgetRedis() => _redisKnown = false;

    /// <summary>Records the masters of the cache's Redis. Returns whether they differ from the ones before.</summary>
    public bool LearnRedis(IReadOnlyList<string> masters)
    {
        var changed = Learn(ref _redis, [.. masters.Select(id => $"redis {id}")]);
        _redisKnown = true;
        return changed;
    }

    /// <summary>As <see cref="LearnRedis"/>, for the state server.</summary>
    public bool LearnState(IReadOnlyList<string> masters) => LearnSource(ref _state, [.. masters.Select(id => $"state {id}")]);

    /// <summary>As <see cref="LearnRedis"/>, for the database.</summary>
    /// <param name="timeline">It grows with each promotion of a standby.</param>
    public bool LearnPostgres(string system, uint timeline) => LearnSource(ref _postgres, [$"postgres {system}/{timeline:x8}"]);

    /// <summary>
    /// Records the incarnation of a source of values. If it has replaced another one, it may have lost some: revisions that were seen may
    /// not come again.
    /// </summary>
    private bool LearnSource(ref IReadOnlyList<string> held, IReadOnlyList<string> now)
    {
        var replaces = held.Count > 0;
        var changed = Learn(ref held, now);
        if (changed && replaces)
        {
            seen.Clear();
        }

        return changed;
    }

    private bool Learn(ref IReadOnlyList<string> held, IReadOnlyList<string> now)
    {
        lock (_lock)
        {
            var changed = !held.SequenceEqual(now);
            held = now;
            _known = [.. _redis, .. _state, .. _postgres];
            return changed;
        }
    }
}
