using System.Globalization;
using StackExchange.Redis;

namespace CachingApi.Tests.Servers;

/// <summary>A Redis Cluster of three masters without replicas, as processes.</summary>
internal sealed class RedisCluster : IAsyncDisposable
{
    private const int Masters = 3;
    private const int Slots = 16384;

    private readonly List<RedisServer> _nodes = [];

    /// <summary>The masters, each of which can be frozen, killed and started again by itself.</summary>
    public IReadOnlyList<RedisServer> Nodes => _nodes;

    public string ConnectionString => string.Join(',', _nodes.Select(node => node.ConnectionString));

    public IReadOnlyList<int> Ports => [.. _nodes.Select(node => node.Port)];

    public static async Task<RedisCluster> StartAsync()
    {
        var cluster = new RedisCluster();
        try
        {
            for (var master = 0; master < Masters; master++)
            {
                cluster._nodes.Add(await RedisServer.StartProcessAsync(Port(), "--cluster-enabled", "yes"));
            }

            await cluster.FormAsync();
            return cluster;
        }
        catch
        {
            await cluster.DisposeAsync();
            throw;
        }
    }

    /// <summary>Freezes a master: connections stay open, and it does not answer.</summary>
    public Task PauseAsync(int port) => At(port).PauseAsync();

    public Task ResumeAsync(int port) => At(port).ResumeAsync();

    public async ValueTask DisposeAsync()
    {
        foreach (var node in _nodes)
        {
            await node.DisposeAsync();
        }
    }

    private RedisServer At(int port) => _nodes.Single(node => node.Port == port);

    private async Task FormAsync()
    {
        for (var master = 0; master < Masters; master++)
        {
            await using var connection = await ConnectionMultiplexer.ConnectAsync(
                $"{_nodes[master].ConnectionString},abortConnect=false,allowAdmin=true");
            await Eventually.TrueAsync(() => connection.IsConnected, "a master to start");
            var server = connection.GetServers()[0];
            await server.ExecuteAsync("CLUSTER", "ADDSLOTSRANGE", Slots * master / Masters, Slots * (master + 1) / Masters - 1);
            await server.ExecuteAsync("CLUSTER", "MEET", "127.0.0.1", _nodes[0].Port.ToString(CultureInfo.InvariantCulture));
        }

        foreach (var node in _nodes)
        {
            await Eventually.TrueAsync(async () =>
            {
                await using var connection = await ConnectionMultiplexer.ConnectAsync($"{node.ConnectionString},allowAdmin=true");
                var state = (string)(await connection.GetServers()[0].ExecuteAsync("CLUSTER", "INFO"))!;
                return state.Contains("cluster_state:ok", StringComparison.Ordinal)
                    && state.Contains($"cluster_known_nodes:{Masters}", StringComparison.Ordinal);
            }, "the cluster to form");
        }
    }

    /// <summary>A node's bus has a port 10,000 above its own.</summary>
    private static int Port()
    {
        int port;
        while ((port = Machine.FreePort()) > ushort.MaxValue - 10_000)
        {
        }

        return port;
    }
}
