using System.Diagnostics;
using DotNet.Testcontainers.Containers;
using StackExchange.Redis;
using Testcontainers.Redis;

namespace CachingApi.Tests.Servers;

/// <summary>A Redis of a test's own, on one port for all its life, that can be stopped, killed and started again.</summary>
internal abstract class RedisServer : IAsyncDisposable
{
    protected RedisServer(int port) => Port = port;

    public int Port { get; }

    public string ConnectionString => $"127.0.0.1:{Port}";

    /// <summary>A container where a Docker engine answers, else a process.</summary>
    /// <param name="options">Options of redis-server beside the tests' own.</param>
    public static async Task<RedisServer> StartAsync(params string[] options)
    {
        RedisServer server = Machine.HasDocker ? new ContainerRedis(Machine.FreePort(), options) : new ProcessRedis(Machine.FreePort(), options);
        await server.StartAgainAsync();
        return server;
    }

    /// <summary>Starts it again after <see cref="KillAsync"/>: empty, unless it was told to <c>SAVE</c>.</summary>
    public async Task StartAgainAsync()
    {
        await LaunchAsync();
        await Eventually.TrueAsync(async () =>
        {
            await using var connection = await ConnectionMultiplexer.ConnectAsync($"{ConnectionString},abortConnect=false,connectTimeout=500");
            return connection.IsConnected;
        });
    }

    /// <summary>Freezes it: connections stay open and nothing is answered.</summary>
    public abstract Task PauseAsync();

    public abstract Task ResumeAsync();

    /// <summary>SIGKILL.</summary>
    public abstract Task KillAsync();

    public abstract ValueTask DisposeAsync();

    protected abstract Task LaunchAsync();

    private sealed class ProcessRedis(int port, string[] options) : RedisServer(port)
    {
        private Process? _process;

        private string Snapshot => $"cachingapi-{Port}.rdb";

        public override Task PauseAsync() => Machine.SignalAsync(_process!.Id, "STOP");

        public override Task ResumeAsync() => Machine.SignalAsync(_process!.Id, "CONT");

        public override async Task KillAsync()
        {
            _process!.Kill();
            await _process.WaitForExitAsync();
        }

        public override async ValueTask DisposeAsync()
        {
            if (!_process!.HasExited)
            {
                await KillAsync();
            }

            _process.Dispose();
            File.Delete(Path.Combine(Path.GetTempPath(), Snapshot));
            if (Array.IndexOf(options, "--appenddirname") is >= 0 and var at)
            {
                Directory.Delete(Path.Combine(Path.GetTempPath(), options[at + 1]), recursive: true);
            }
        }

        protected override Task LaunchAsync()
        {
            var redis = Machine.FindRedis() ?? throw new InvalidOperationException("redis-server is missing: ./dev test brings it.");
            _process = Machine.Start(
                redis,
                ["--port", $"{Port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", Path.GetTempPath(), "--dbfilename", Snapshot, "--loglevel", "warning", .. options]);
            _process.BeginOutputReadLine();
            _process.BeginErrorReadLine();
            return Task.CompletedTask;
        }
    }

    private sealed class ContainerRedis(int port, string[] options) : RedisServer(port)
    {
        private readonly RedisContainer _container = new RedisBuilder("redis:8").WithPortBinding(port, 6379).WithCommand(options).Build();

        public override Task PauseAsync() => _container.PauseAsync();

        public override Task ResumeAsync() => _container.UnpauseAsync();

        public override async Task KillAsync() => await Machine.RunAsync("docker", "kill", _container.Id);

        public override ValueTask DisposeAsync() => _container.DisposeAsync();

        protected override Task LaunchAsync() => _container.State is TestcontainersStates.Undefined
            ? _container.StartAsync()
            : Machine.RunAsync("docker", "start", _container.Id);
    }
}
