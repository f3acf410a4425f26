using System.Globalization;
using System.Text.RegularExpressions;
using StackExchange.Redis;

namespace CachingApi.Storage;

/// <summary>How many keys a database of Redis holds, and how many of them expire.</summary>
internal readonly record struct RedisKeys(long Count, long Expiring);

/// <summary>What one Redis server says of itself.</summary>
/// <param name="Role">What it is used for: <c>cache</c> or <c>state</c>; <c>cache</c> where one server is both.</param>
/// <param name="Node">Its address, as configured or as the cluster knows it.</param>
/// <param name="Up">Whether it answered; all else is empty where it did not.</param>
/// <param name="Fields">The numbers of its <c>INFO</c> by Redis's own names, such as <c>used_memory</c> (bytes); what it does not tell is not there.</param>
/// <param name="Keys">What its databases hold, by name (<c>db0</c>); an empty one is not there.</param>
/// <param name="EvictionPolicy">Its <c>maxmemory-policy</c>, such as <c>allkeys-lfu</c>.</param>
internal sealed partial record RedisNode(
    string Role,
    string Node,
    bool Up,
    IReadOnlyDictionary<string, double> Fields,
    IReadOnlyDictionary<string, RedisKeys> Keys,
    string? EvictionPolicy)
{
    /// <param name="info">The text of <c>INFO</c>; <c>null</c> where it did not answer.</param>
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
/// What the Redis servers say of themselves (<c>INFO</c>), asked every five seconds in the background, so that nobody who
/// looks waits for them.
/// </summary>
internal sealed class RedisInfo(Redis redis) : BackgroundService
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(1);

    private volatile RedisNode[] _nodes = [];

    /// <summary>Every server of both connections, replicas too, as it was at most some seconds ago; none before the first answer.</summary>
    public IReadOnlyList<RedisNode> Nodes => _nodes;

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var (cache, state) = (redis.Cache.Multiplexer, redis.State.Multiplexer);
        var connections = cache == state ? [("cache", cache)] : new[] { ("cache", cache), ("state", state) };

        // Real time, not the injected clock: Redis's numbers move on their own.
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

    private static async Task<RedisNode> AskAsync(string role, IServer server, CancellationToken cancel)
    {
        var node = EndPointCollection.ToString(server.EndPoint);
        try
        {
            return RedisNode.Parse(role, node, await server.InfoRawAsync().WaitAsync(Patience, cancel) ?? "");
        }
        catch (RedisServerException)
        {
            return RedisNode.Parse(role, node, ""); // it answers, but does not allow INFO
        }
        catch (Exception error) when (Redis.IsOutage(error))
        {
            return RedisNode.Parse(role, node, info: null);
        }
    }
}
