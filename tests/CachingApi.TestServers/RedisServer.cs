using System.Diagnostics;
using DotNet.Testcontainers.Containers;
using StackExchange.Redis;
using Testcontainers.Redis;

namespace CachingApi.Tests.Servers;

/// <summary>A test's own Redis, always on the same port, that can be stopped, killed and started again.</summary>
internal abstract class RedisServer : IAsyncDisposable
{
    protected RedisServer(int port) => Port = port;

    public int Port { get; }

    public string ConnectionString => $"127.0.0.1:{Port}";

    /// <summary>Starts a container if a Docker engine answers, else a process.</summary>
    /// <param name="options">Options of redis-server beside the tests' own.</param>
    public static async Task<RedisServer> StartAsync(params string[] options)
    {
        RedisServer server = Machine.HasDocker
            ? new ContainerRedis(Machine.FreePort(), options)
            : new ProcessRedis(Machine.FreePort(), options);
        await server.StartAgainAsync();
        return server;
    }

    /// <summary>A process on a given port.</summary>
    public static async Task<RedisServer> StartProcessAsync(int port, params string[] options)
    {
        var server = new ProcessRedis(port, options);
        await server.StartAgainAsync();
        return server;
    }

    /// <summary>
    /// Starts the server again after <see cref="KillAsync"/>, with the data of its last <see cref="SaveAsync"/> or its append-only file.
    /// </summary>
    /// <param name="empty">Whether that data is removed first.</param>
    public async Task StartAgainAsync(bool empty = false)
    {
        if (empty)
        {
            await RemoveDataAsync();
        }

        await LaunchAsync();
        await Eventually.TrueAsync(async () =>
        {
            await using var connection = await ConnectionMultiplexer.ConnectAsync(
                $"{ConnectionString},abortConnect=false,connectTimeout=500");
            return connection.IsConnected;
        });
    }

    /// <summary>Writes a snapshot, which the next start loads.</summary>
    public Task SaveAsync() => ExecuteAsync("SAVE");

    /// <summary>Removes all data.</summary>
    public Task FlushAsync() => ExecuteAsync("FLUSHALL");

    /// <summary>Freezes the server: connections stay open, and it does not answer.</summary>
    public abstract Task PauseAsync();

    public abstract Task ResumeAsync();

    /// <summary>SIGKILL.</summary>
    public abstract Task KillAsync();

    public abstract ValueTask DisposeAsync();

    protected abstract Task LaunchAsync();

    protected abstract Task RemoveDataAsync();

    private async Task ExecuteAsync(string command)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{ConnectionString},allowAdmin=true");
        await connection.GetServer("127.0.0.1", Port).ExecuteAsync(command);
    }

    private sealed class ProcessRedis(int port, string[] options) : RedisServer(port)
    {
        private readonly DirectoryInfo _folder = Machine.CreateFolder("cachingapi-redis-");
        private Process? _process;

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
            _folder.Delete(recursive: true);
        }

        protected override Task RemoveDataAsync()
        {
            File.Delete(Path.Combine(_folder.FullName, "dump.rdb"));
            foreach (var appendOnly in _folder.EnumerateDirectories())
            {
                appendOnly.Delete(recursive: true);
            }

            return Task.CompletedTask;
        }

        protected override Task LaunchAsync()
        {
            var redis = Machine.FindRedis() ?? throw new InvalidOperationException("redis-server is missing: ./dev test installs it.");
            _process = Machine.Start(
                redis,
                [
                    "--port", $"{Port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", _folder.FullName,
                    "--loglevel", "warning", .. options,
                ]);
            _process.BeginOutputReadLine();
            _process.BeginErrorReadLine();
            return Task.CompletedTask;
        }
    }

    private sealed class ContainerRedis(int port, string[] options) : RedisServer(port)
    {
        private RedisContainer _container = new RedisBuilder("redis:8").WithPortBinding(port, 6379).WithCommand(options).Build();

        public override Task PauseAsync() => _container.PauseAsync();

        public override Task ResumeAsync() => _container.UnpauseAsync();

        public override async Task KillAsync() => await Machine.RunAsync("docker", "kill", _container.Id);

        public override ValueTask DisposeAsync() => _container.DisposeAsync();

        protected override async Task RemoveDataAsync()
        {
            await _container.DisposeAsync();
            _container = new RedisBuilder("redis:8").WithPortBinding(Port, 6379).WithCommand(options).Build();
        }

        protected override Task LaunchAsync() => _container.State is TestcontainersStates.Undefined
            ? _container.StartAsync()
            : Machine.RunAsync("docker", "start", _container.Id);
    }
}
