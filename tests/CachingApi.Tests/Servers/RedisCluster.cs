using System.Diagnostics;
using System.Globalization;
using StackExchange.Redis;

namespace CachingApi.Tests.Servers;

/// <summary>A Redis Cluster of three masters without replicas, as processes.</summary>
internal sealed class RedisCluster : IAsyncDisposable
{
    private const int Masters = 3;
    private const int Slots = 16384;

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("cachingapi-cluster-");
    private readonly int[] _ports = [.. Enumerable.Range(0, Masters).Select(_ => Port())];
    private Process[] _processes = [];

    public string ConnectionString => string.Join(',', _ports.Select(port => $"127.0.0.1:{port}"));

    public IReadOnlyList<int> Ports => _ports;

    public static async Task<RedisCluster> StartAsync()
    {
        var cluster = new RedisCluster();
        var redis = Machine.FindRedis() ?? throw new InvalidOperationException("redis-server is missing: ./dev test brings it.");
        cluster._processes = [.. cluster._ports.Select(port => Machine.Start(
            redis, "--port", $"{port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", cluster._folder.FullName,
            "--cluster-enabled", "yes", "--cluster-config-file", $"{port}.conf"))];
        foreach (var process in cluster._processes)
        {
            process.BeginOutputReadLine();
            process.BeginErrorReadLine();
        }

        try
        {
            await cluster.FormAsync();
            return cluster;
        }
        catch
        {
            await cluster.DisposeAsync();
            throw;
        }
    }

    /// <summary>Freezes a master: connections stay open and nothing is answered.</summary>
    public Task PauseAsync(int port) => Machine.SignalAsync(ProcessOf(port), "STOP");

    public Task ResumeAsync(int port) => Machine.SignalAsync(ProcessOf(port), "CONT");

    public async ValueTask DisposeAsync()
    {
        foreach (var process in _processes)
        {
            process.Kill();
            await process.WaitForExitAsync();
            process.Dispose();
        }

        _folder.Delete(recursive: true);
    }

    private int ProcessOf(int port) => _processes[Array.IndexOf(_ports, port)].Id;

    private async Task FormAsync()
    {
        for (var master = 0; master < Masters; master++)
        {
            await using var connection = await ConnectionMultiplexer.ConnectAsync($"127.0.0.1:{_ports[master]},abortConnect=false,allowAdmin=true");
            await Eventually.TrueAsync(() => connection.IsConnected, "a master to start");
            var server = connection.GetServers()[0];
            await server.ExecuteAsync("CLUSTER", "ADDSLOTSRANGE", Slots * master / Masters, Slots * (master + 1) / Masters - 1);
            await server.ExecuteAsync("CLUSTER", "MEET", "127.0.0.1", _ports[0].ToString(CultureInfo.InvariantCulture));
        }

        foreach (var port in _ports)
        {
            await Eventually.TrueAsync(async () =>
            {
                await using var connection = await ConnectionMultiplexer.ConnectAsync($"127.0.0.1:{port},allowAdmin=true");
                var state = (string)(await connection.GetServers()[0].ExecuteAsync("CLUSTER", "INFO"))!;
                return state.Contains("cluster_state:ok", StringComparison.Ordinal) && state.Contains($"cluster_known_nodes:{Masters}", StringComparison.Ordinal);
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
