using System.Diagnostics.Metrics;
using System.Globalization;
using System.Text.RegularExpressions;
using StackExchange.Redis;

namespace CachingApi.Redis;

/// <summary>How many keys a database of Redis holds, and how many of them expire.</summary>
internal readonly record struct RedisKeys(long Count, long Expiring);

/// <summary>The state of one Redis server, as it reports it.</summary>
/// <param name="Role">Its use: <c>cache</c> or <c>state</c>; <c>cache</c> if one server is both.</param>
/// <param name="Node">Its address, as configured or as the cluster reports it.</param>
/// <param name="Up">Whether it answered; if not, all other values are empty.</param>
/// <param name="Fields">
/// The numbers in its <c>INFO</c> under Redis's own names, such as <c>used_memory</c> (bytes). Fields that it does not report are missing.
/// </param>
/// <param name="Keys">The keys in its databases, by name (<c>db0</c>); empty databases are missing.</param>
/// <param name="EvictionPolicy">Its <c>maxmemory-policy</c>, such as <c>allkeys-lfu</c>.</param>
internal sealed partial record RedisNode(
    string Role,
    string Node,
    bool Up,
    IReadOnlyDictionary<string, double> Fields,
    IReadOnlyDictionary<string, RedisKeys> Keys,
    string? EvictionPolicy)
{
    /// <param name="info">The text of <c>INFO</c>; <c>null</c> if it did not answer.</param>
    public static RedisNode Parse(string role, string node, string? info)
    {
        var fields = new Dictionary<string, double>();
        var keys = new Dictionary<string, RedisKeys>();
        var policy = default(string);
        foreach (var line in (info ?? "").Split("\r\n"))
        {
            if (line.Split(':', 2) is not [var name, var value])
            {
                continue;
            }

            if (KeysOfDatabase().Match(line) is { Success: true } held)
            {
                keys[name] = new(Number("keys"), Number("expires"));
                long Number(string part) => long.Parse(held.Groups[part].Value, CultureInfo.InvariantCulture);
            }
            else if (name is "maxmemory_policy")
            {
                policy = value;
            }
            else if (double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out var number))
            {
                fields[name] = number;
            }
        }

        return new(role, node, info is not null, fields, keys, policy);
    }

    [GeneratedRegex(@"^db\d+:keys=(?<keys>\d+),expires=(?<expires>\d+)")]
    private static partial Regex KeysOfDatabase();
}

/// <summary>
/// The <c>INFO</c> of the Redis servers, read every five seconds in the background, so that no reader waits for them. As metrics, its
/// fields have the names of redis_exporter.
/// </summary>
internal sealed class RedisInfo : BackgroundService
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(1);

    private readonly RedisConnections _redis;
    private volatile RedisNode[] _nodes = [];

    public RedisInfo(RedisConnections redis, IMeterFactory meters)
    {
        _redis = redis;
        var meter = meters.Create("CachingApi.Redis");
        meter.CreateObservableGauge(
            "redis.up", () => _nodes.Select(node => Measure(node, node.Up ? 1 : 0)), description: "1 while this server answers.");
        Gauge("redis.uptime_in_seconds", "uptime_in_seconds", "Seconds since the server was started.");
        Gauge("redis.connected_clients", "connected_clients", "Client connections.");
        Gauge("redis.blocked_clients", "blocked_clients", "Client connections that wait in a blocking command.");
        Gauge("redis.memory_used_bytes", "used_memory", "Bytes that the server has allocated.");
        Gauge("redis.memory_used_rss_bytes", "used_memory_rss", "Bytes that the operating system has given the server.");
        Gauge("redis.memory_max_bytes", "maxmemory", "Bytes beyond which the server evicts keys or refuses writes; 0 for no bound.");
        Gauge("redis.mem_fragmentation_ratio", "mem_fragmentation_ratio", "Bytes from the operating system per allocated byte.");
        Counter("redis.evicted_keys", "evicted_keys", "Keys that were evicted for lack of memory.");
        Counter("redis.expired_keys", "expired_keys", "Keys that expired.");
        Counter("redis.keyspace_hits", "keyspace_hits", "Look-ups of existing keys, by any command.");
        Counter("redis.keyspace_misses", "keyspace_misses", "Look-ups of missing keys, by any command.");
        Counter("redis.commands_processed", "total_commands_processed", "Commands.");
        Counter("redis.connections_received", "total_connections_received", "Accepted connections.");
        Counter("redis.rejected_connections", "rejected_connections", "Connections that were refused because there were too many.");
        Counter("redis.net_input_bytes", "total_net_input_bytes", "Bytes received.");
        Counter("redis.net_output_bytes", "total_net_output_bytes", "Bytes sent.");
        meter.CreateObservableGauge("redis.db_keys", () => Keys(keys => keys.Count), description: "Keys in a database.");
        meter.CreateObservableGauge(
            "redis.db_keys_expiring", () => Keys(keys => keys.Expiring), description: "Keys in a database that expire.");

        void Gauge(string name, string field, string description) =>
            meter.CreateObservableGauge(name, () => Field(field), description: description);
        void Counter(string name, string field, string description) =>
            meter.CreateObservableCounter(name, () => Field(field), description: description);
    }

    /// <summary>
    /// Every server of both connections, including replicas, as of at most some seconds ago; none before the first answer.
    /// </summary>
    public IReadOnlyList<RedisNode> Nodes => _nodes;

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var (cache, state) = (_redis.Cache.Multiplexer, _redis.State.Multiplexer);
        var connections = cache == state ? [("cache", cache)] : new[] { ("cache", cache), ("state", state) };

        // Real time, not the injected clock, because Redis's numbers change in real time.
        using var timer = new PeriodicTimer(Interval);
        do
        {
            _nodes = await Task.WhenAll(
                from connection in connections
                from server in connection.Item2.GetServers()
                select AskAsync(connection.Item1, server, stoppingToken));
        }
        while (await timer.WaitForNextTickAsync(stoppingToken));
    }

    private IEnumerable<Measurement<double>> Field(string field) =>
        from node in _nodes
        where node.Fields.ContainsKey(field)
        select Measure(node, node.Fields[field]);

    private IEnumerable<Measurement<long>> Keys(Func<RedisKeys, long> value) =>
        from node in _nodes
        from database in node.Keys
        select new Measurement<long>(value(database.Value), new("db", database.Key), new("node", node.Node), new("role", node.Role));

    private static Measurement<double> Measure(RedisNode node, double value) => new(value, new("node", node.Node), new("role", node.Role));

    private static async Task<RedisNode> AskAsync(string role, IServer server, CancellationToken cancel)
    {
        var node = EndPointCollection.ToString(server.EndPoint);
        try
        {
            return RedisNode.Parse(role, node, await server.InfoRawAsync().WaitAsync(Timeout, cancel) ?? "");
        }
        catch (Exception error) when (error is RedisServerException or RedisCommandException)
        {
            return RedisNode.Parse(role, node, ""); // it answers, but does not allow INFO
        }
        catch (Exception error) when (RedisConnections.IsOutage(error))
        {
            return RedisNode.Parse(role, node, info: null);
        }
    }
}
