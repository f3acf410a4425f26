namespace CachingApi.Caching;

/// <param name="Server">The server's role and address.</param>
/// <param name="Id">A value that is another one after a restart or a failover.</param>
internal readonly record struct Incarnation(string Server, string Id);

/// <summary>
/// Which incarnations of its servers the cache rests on. A server that was restarted from a snapshot, a replica that was promoted,
/// or a state server that lost its data is another incarnation: each cache then moves to a new generation, once (see
/// <c>generation.lua</c>), before an entry of it is served.
/// </summary>
internal sealed class Incarnations
{
    /// <summary>The name that <c>generation.lua</c> compares by its timeline.</summary>
    private const string PostgresName = "postgres";

    private readonly Lock _lock = new();
    private volatile IReadOnlyList<Incarnation> _known = [];
    private volatile bool _redisKnown;
    private IReadOnlyList<Incarnation> _redis = [];
    private IReadOnlyList<Incarnation> _state = [];
    private IReadOnlyList<Incarnation> _postgres = [];

    /// <summary>Whether it has been found out which incarnation of the cache's Redis this process is connected to.</summary>
    public bool IsRedisKnown => _redisKnown;

    public IReadOnlyList<Incarnation> Known => _known;

    /// <summary>The connection to the cache's Redis was lost: the next one may lead to another incarnation.</summary>
    public void ForgetRedis() => _redisKnown = false;

    /// <summary>Takes note of the masters of the cache's Redis. Returns whether they differ from those that were known.</summary>
    public bool LearnRedis(IReadOnlyList<Incarnation> masters)
    {
        var changed = Learn(ref _redis, masters);
        _redisKnown = true;
        return changed;
    }

    /// <summary>As <see cref="LearnRedis"/>, for the state server.</summary>
    public bool LearnState(IReadOnlyList<Incarnation> masters) => Learn(ref _state, masters);

    /// <summary>Takes note of the database.</summary>
    /// <param name="timeline">It grows with each promotion of a standby.</param>
    public bool LearnPostgres(string system, uint timeline) => Learn(ref _postgres, [new(PostgresName, $"{system}/{timeline:x8}")]);

    private bool Learn(ref IReadOnlyList<Incarnation> held, IReadOnlyList<Incarnation> now)
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
