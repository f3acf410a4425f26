using System.ComponentModel.DataAnnotations;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Storage;

/// <summary>How Redis is used: the section <c>Redis</c>.</summary>
internal sealed class RedisOptions
{
    /// <summary>What every key begins with, so that several services can share one Redis.</summary>
    [Required, StringLength(48), RegularExpression("^[a-z0-9-]+$", ErrorMessage = "Redis:KeyPrefix holds lower-case letters, digits and hyphens only")]
    public string KeyPrefix { get; init; } = "cachingapi";

    /// <summary>How long sessions and writes (not the cache, which has a deadline of its own) wait for an answer.</summary>
    [Range(typeof(TimeSpan), "00:00:00.010", "00:00:10")]
    public TimeSpan StateDeadline { get; init; } = TimeSpan.FromMilliseconds(500);
}

/// <summary>
/// The two Redis connections: the <see cref="Cache"/>, which may be lost at any moment, and the <see cref="State"/>, which
/// should not be (the same server where only one is configured).
/// </summary>
internal sealed class Redis : IAsyncDisposable
{
    private readonly ConnectionMultiplexer _cache;
    private readonly ConnectionMultiplexer _state;
    private readonly string _stateConnection;
    private readonly TimeSpan _stateDeadline;

    public Redis(IOptions<ConnectionStrings> connections, IOptions<RedisOptions> options)
    {
        var (cache, state) = (connections.Value.Redis, connections.Value.RedisState);
        _stateConnection = state is "" ? cache : state;
        _cache = ConnectionMultiplexer.Connect(Options(cache, "cache"));
        _state = _stateConnection == cache ? _cache : ConnectionMultiplexer.Connect(Options(_stateConnection, "state"));
        _stateDeadline = options.Value.StateDeadline;
        KeyPrefix = options.Value.KeyPrefix;
    }

    public string KeyPrefix { get; }

    public IDatabase Cache => _cache.GetDatabase();

    public IDatabase State => _state.GetDatabase();

    /// <summary>Runs one command on <see cref="State"/>.</summary>
    /// <exception cref="UnavailableException">Redis did not answer within <see cref="RedisOptions.StateDeadline"/>.</exception>
    public async Task<T> OnStateAsync<T>(Func<IDatabase, Task<T>> command, CancellationToken cancel)
    {
        using var span = Traces.StartRedis("state");
        try
        {
            return await command(State).WaitAsync(_stateDeadline, cancel);
        }
        catch (Exception error) when (IsOutage(error))
        {
            span.Failed(error);
            throw new UnavailableException("Redis", error);
        }
    }

    /// <summary>A key on every shard of the cache's Redis; one key if it is no cluster.</summary>
    public IReadOnlyList<RedisKey> KeysOnShards(string name)
    {
        var key = $"{KeyPrefix}:{name}";
        var configuration = _cache.GetServers().FirstOrDefault(server => server.ServerType is ServerType.Cluster && server.IsConnected)?.ClusterConfiguration;
        return configuration is null
            ? [key]
            : [.. configuration.Nodes.Where(node => !node.IsReplica && node.Slots.Count > 0).Select(node => Enumerable.Range(0, int.MaxValue)
                .Select(number => (RedisKey)$"{key}:{{{number}}}")
                .First(candidate => configuration.GetBySlot(candidate)?.NodeId == node.NodeId))];
    }

    /// <summary>Finds out anew which server of the cache's Redis is the master: the library itself asks once a minute only.</summary>
    public Task FindMasterAsync() => _cache.ConfigureAsync();

    /// <summary>A further connection to the state server, for commands that hold up all that follow them.</summary>
    public Task<ConnectionMultiplexer> ConnectToStateAsync(string role, TimeSpan patience)
    {
        var options = Options(_stateConnection, role);
        options.AsyncTimeout = (int)patience.TotalMilliseconds;
        return ConnectionMultiplexer.ConnectAsync(options);
    }

    /// <summary>Whether an error means that Redis is away or refuses to serve, as opposed to a fault of ours.</summary>
    public static bool IsOutage(Exception error) => error is RedisException or TimeoutException or ObjectDisposedException;

    public async ValueTask DisposeAsync()
    {
        await _cache.DisposeAsync();
        await _state.DisposeAsync();
    }

    /// <remarks>
    /// Nothing may wait in a backlog for a server that is gone, and the library checks its time-outs only once per
    /// heartbeat (a second, unless told otherwise); the hard deadline is the caller's.
    /// </remarks>
    private static ConfigurationOptions Options(string connectionString, string role)
    {
        var options = ConfigurationOptions.Parse(connectionString);
        options.ClientName = $"cachingapi-{role}";
        options.AbortOnConnectFail = false;
        options.AllowAdmin = true; // the library counts INFO among these commands
        options.BacklogPolicy = BacklogPolicy.FailFast;
        options.HeartbeatInterval = TimeSpan.FromMilliseconds(50);
        options.ConnectTimeout = 1000;
        options.ConnectRetry = 1;
        options.AsyncTimeout = 1000;
        options.SyncTimeout = 1000;
        options.ReconnectRetryPolicy = new LinearRetry(200);
        return options;
    }
}
