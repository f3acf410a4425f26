using StackExchange.Redis;

namespace CachingApi.Tests.Servers;

/// <summary>
/// The Redis that the tests of a project share, each with its own key prefix: the one in CACHINGAPI_TEST_REDIS, else a container if a
/// Docker engine answers, else a process. CACHINGAPI_TEST_REDIS=cluster starts a Redis Cluster.
/// </summary>
internal sealed class SharedRedis : IAsyncDisposable
{
    private readonly IAsyncDisposable? _started;

    private SharedRedis(string connectionString, IAsyncDisposable? started) => (ConnectionString, _started) = (connectionString, started);

    public string ConnectionString { get; }

    public static async Task<SharedRedis> StartAsync()
    {
        switch (Environment.GetEnvironmentVariable("CACHINGAPI_TEST_REDIS"))
        {
            case null or "":
                var redis = await RedisServer.StartAsync();
                return new(redis.ConnectionString, redis);
            case "cluster":
                var cluster = await RedisCluster.StartAsync();
                return new(cluster.ConnectionString, cluster);
            case var given:
                return new(given, started: null);
        }
    }

    /// <summary>The keys that have a prefix, in any Redis, without it.</summary>
    public static async Task<string[]> KeysAsync(string connectionString, string prefix)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync(connectionString);
        var keys = new List<string>();
        foreach (var server in connection.GetServers())
        {
            await foreach (var key in server.KeysAsync(pattern: $"*{prefix}:*"))
            {
                keys.Add(key.ToString().Replace($"{prefix}:", "", StringComparison.Ordinal));
            }
        }

        return [.. keys];
    }

    public ValueTask DisposeAsync() => _started?.DisposeAsync() ?? default;
}
