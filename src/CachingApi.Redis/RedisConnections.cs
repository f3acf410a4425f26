using System.ComponentModel.DataAnnotations;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Redis;

/// <summary>Where Redis is and how it is used.</summary>
public sealed class RedisOptions
{
    /// <summary>Connection string of the Redis that holds the cache, in the form of StackExchange.Redis.</summary>
    public string Cache { get; set; } = "";

    /// <summary>
    /// Connection string of the Redis for state that must not be lost, such as queued writes. If it is empty, <see cref="Cache"/> is used.
    /// </summary>
    public string State { get; set; } = "";

    /// <summary>The prefix of every key, so that several services can share one Redis.</summary>
    [Required, StringLength(48)]
    [RegularExpression("^[a-z0-9-]+$", ErrorMessage = "Redis:KeyPrefix may contain only lower-case letters, digits and hyphens")]
    public string KeyPrefix { get; set; } = "cachingapi";

    /// <summary>How long sessions and writes (not the cache, which has a deadline of its own) wait for an answer.</summary>
    [TimeSpanRange("00:00:00.010", "00:00:10")]
    public TimeSpan StateDeadline { get; set; } = TimeSpan.FromMilliseconds(500);

    /// <summary>How long the cache waits for an answer; it is set from an option of the cache.</summary>
    internal TimeSpan CacheDeadline { get; set; }
}

/// <summary>
/// The two Redis connections: the <see cref="Cache"/>, whose data may be lost at any time, and the <see cref="State"/>, whose data should
/// not be lost. If only one server is configured, both use it.
/// </summary>
internal sealed class RedisConnections : IAsyncDisposable
{
    /// <summary>
    /// How many names are tried to find a key of a given master: with slots for a thousand masters, one in a thousand fits. More attempts
    /// would not help, because then the client does not have the master's address.
    /// </summary>
    public const int MaxTriesForSlot = 100_000;

    private readonly ConnectionMultiplexer? _cache;
    private readonly ConnectionMultiplexer? _state;
    private readonly string _stateConnection;
    private readonly StateCircuit _circuit;

    public RedisConnections(IOptions<RedisOptions> options, ILogger<RedisConnections> log)
    {
        var (cache, state) = (options.Value.Cache, options.Value.State);
        _stateConnection = state is "" ? cache : state;
        var (cacheDeadline, stateDeadline) = (options.Value.CacheDeadline, options.Value.StateDeadline);
        KeyPrefix = options.Value.KeyPrefix;
        _circuit = new(stateDeadline, () => KeysOnShards(_state, "probe").Select(key => State.KeyExistsAsync(key)), log);
        if (cache.Length > 0)
        {
            var isShared = _stateConnection == cache;
            _cache = ConnectionMultiplexer.Connect(
                Options(cache, "cache", isShared && stateDeadline > cacheDeadline ? stateDeadline : cacheDeadline));
            _state = isShared ? _cache : ConnectionMultiplexer.Connect(Options(_stateConnection, "state", stateDeadline));
        }
    }

    /// <summary>Whether a connection string is configured. If not, no other member of this class can be used.</summary>
    public bool IsConfigured => _cache is not null;

    public string KeyPrefix { get; }

    public IDatabase Cache => Configured(_cache).GetDatabase();

    public IDatabase State => Configured(_state).GetDatabase();

    /// <summary>Whether the state server has not answered for some time and is not used: see <see cref="StateCircuit"/>.</summary>
    public bool IsStateLeftAlone => _circuit.IsOpen;

    /// <summary>Runs one command on <see cref="State"/>.</summary>
    /// <exception cref="UnavailableException">
    /// Redis did not answer within <see cref="RedisOptions.StateDeadline"/>, or was not asked because it has not answered for some time.
    /// </exception>
    public async Task<T> OnStateAsync<T>(Func<IDatabase, Task<T>> command, CancellationToken cancel)
    {
        using var span = Traces.StartRedis("state");
        try
        {
            return await _circuit.RunAsync(() => command(State), cancel);
        }
        catch (Exception error) when (IsOutage(error))
        {
            span.Failed(error);
            throw new UnavailableException("Redis", error);
        }
    }

    /// <summary>A key on every shard of the cache's Redis; one key if it is not a cluster.</summary>
    public IReadOnlyList<RedisKey> KeysOnShards(string name) => KeysOnShards(_cache, name);

    /// <summary>Finds out again which server of the cache's Redis is the master; the library itself asks only once a minute.</summary>
    public Task FindMasterAsync() => Configured(_cache).ConfigureAsync();

    /// <summary>A further connection to the state server, for commands that block the commands after them.</summary>
    public Task<ConnectionMultiplexer> ConnectToStateAsync(string role, TimeSpan timeout) =>
        ConnectionMultiplexer.ConnectAsync(Options(_stateConnection, role, timeout));

    /// <summary>Whether an error means that Redis is away or refuses to serve. Other errors are faults of this code.</summary>
    public static bool IsOutage(Exception error) => error is RedisException or TimeoutException or ObjectDisposedException;

    /// <summary>
    /// The reason of an outage, for the log. For a refused connection, it is the server's message, such as a wrong password.
    /// </summary>
    public static string Reason(Exception error) =>
        error.GetBaseException() is var cause and not TimeoutException ? cause.Message : "It does not answer in time.";

    public async ValueTask DisposeAsync()
    {
        _circuit.Dispose();
        if (_cache is not null && _state is not null)
        {
            await _cache.DisposeAsync();
            await _state.DisposeAsync();
        }
    }

    private IReadOnlyList<RedisKey> KeysOnShards(ConnectionMultiplexer? connection, string name)
    {
        var key = $"{KeyPrefix}:{name}";
        var configuration = Configured(connection).GetServers()
            .FirstOrDefault(server => server.ServerType is ServerType.Cluster && server.IsConnected)
            ?.ClusterConfiguration;
        return configuration is null
            ? [key]
            : [.. configuration.Nodes
                .Where(node => !node.IsReplica && node.Slots.Count > 0)
                .Select(node => Enumerable.Range(0, MaxTriesForSlot)
                    .Select(number => (RedisKey)$"{key}:{{{number}}}")
                    .First(candidate => configuration.GetBySlot(candidate)?.NodeId == node.NodeId))];
    }

    private static ConnectionMultiplexer Configured(ConnectionMultiplexer? connection) =>
        connection ?? throw new InvalidOperationException("No Redis is configured.");

    /// <remarks>
    /// No command may wait in a backlog for a server that is away. The caller applies the deadline, because the library checks its own
    /// time-out only once per heartbeat, and treats a connection as dead after four times that.
    /// </remarks>
    private static ConfigurationOptions Options(string connectionString, string role, TimeSpan deadline)
    {
        var options = ConfigurationOptions.Parse(connectionString);
        options.ClientName = $"cachingapi-{role}";
        options.AbortOnConnectFail = false;
        options.AllowAdmin = true; // the library counts INFO among these commands
        options.BacklogPolicy = BacklogPolicy.FailFast;
        options.HeartbeatInterval = TimeSpan.FromMilliseconds(50);
        options.ConnectTimeout = 1000;
        options.ConnectRetry = 1;
        options.AsyncTimeout = Math.Max(1000, (int)deadline.TotalMilliseconds);
        options.SyncTimeout = 1000;
        options.ReconnectRetryPolicy = new LinearRetry(200);
        return options;
    }
}
