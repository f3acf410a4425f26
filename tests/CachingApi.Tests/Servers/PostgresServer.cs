using System.Diagnostics;
using System.Globalization;
using DotNet.Testcontainers.Containers;
using Npgsql;
using Testcontainers.PostgreSql;

namespace CachingApi.Tests.Servers;

/// <summary>The tests' own PostgreSQL, always on the same port, that can be stopped, killed and started again.</summary>
internal abstract class PostgresServer(int port) : IAsyncDisposable
{
    private const string Password = "postgres";

    private static readonly string[] Settings =
    [
        "wal_level=logical", "max_slot_wal_keep_size=1GB", "max_replication_slots=50", "max_wal_senders=50", "max_connections=300",
        "fsync=off", "synchronous_commit=off", "full_page_writes=off",
    ];

    /// <summary>For a server that a test stops or kills: acknowledged commits are on disk, as in production.</summary>
    private static readonly string[] Durable = ["fsync=on", "synchronous_commit=on", "full_page_writes=on"];

    public int Port => port;

    public string ConnectionString =>
        $"Host=127.0.0.1;Port={port};Username=postgres;Password={Password};Database=postgres;"
        + "Maximum Pool Size=20;Timeout=5;Command Timeout=10";

    /// <summary>Starts a container if a Docker engine answers, else a process.</summary>
    /// <param name="settings">Settings that replace the tests' own, such as <c>wal_level=replica</c>.</param>
    public static async Task<PostgresServer> StartAsync(params string[] settings)
    {
        string[] all = [.. Settings.Concat(settings).SelectMany(setting => new[] { "-c", setting })];
        PostgresServer server = Machine.HasDocker
            ? new ContainerPostgres(Machine.FreePort(), all)
            : new ProcessPostgres(Machine.FreePort(), all);
        await server.StartAgainAsync();
        return server;
    }

    /// <summary>Starts a server that keeps every acknowledged commit when a test stops or kills it.</summary>
    public static Task<PostgresServer> StartDurableAsync(params string[] settings) => StartAsync([.. Durable, .. settings]);

    public async Task StartAgainAsync()
    {
        await LaunchAsync();
        await Eventually.TrueAsync(async () =>
        {
            try
            {
                await using var connection = new NpgsqlConnection($"{ConnectionString};Pooling=false");
                await connection.OpenAsync();
                return true;
            }
            catch (NpgsqlException)
            {
                return false;
            }
        });
    }

    /// <summary>Freezes the server: connections stay open, and it does not answer.</summary>
    public abstract Task PauseAsync();

    public abstract Task ResumeAsync();

    /// <summary>Stops the server and closes its connections; its data stays.</summary>
    public abstract Task StopAsync();

    /// <summary>Sends SIGKILL to all its processes; the next start recovers from the WAL.</summary>
    public abstract Task KillAsync();

    public abstract ValueTask DisposeAsync();

    protected abstract Task LaunchAsync();

    /// <remarks>PostgreSQL refuses to run as root: there, another user runs it.</remarks>
    private sealed class ProcessPostgres(int port, string[] settings) : PostgresServer(port)
    {
        private readonly string _folder = Machine.CreateFolder("cachingapi-postgres-").FullName;
        private readonly string _binaries = Machine.FindPostgres()
            ?? throw new InvalidOperationException("PostgreSQL's binaries are missing: ./dev test installs them.");

        private Process? _process;

        private string Data => Path.Combine(_folder, "data");

        public override Task PauseAsync() => SignalAllAsync("STOP");

        public override Task ResumeAsync() => SignalAllAsync("CONT");

        public override async Task StopAsync()
        {
            await Machine.SignalAsync(_process!.Id, "INT");
            await _process.WaitForExitAsync();
        }

        public override async Task KillAsync()
        {
            // Freezes them first, because the parent restarts the server when a child dies.
            await SignalAllAsync("STOP");
            var children = await SignalAllAsync("KILL");
            await _process!.WaitForExitAsync();
            // A server does not start while a process of the previous one is attached to the shared memory.
            await Eventually.TrueAsync(() => children.All(child => !Machine.IsRunning(child)), "PostgreSQL's processes to end");
        }

        public override async ValueTask DisposeAsync()
        {
            if (!_process!.HasExited)
            {
                await ResumeAsync(); // a test that failed may have left it frozen
                await StopAsync();
            }

            _process.Dispose();
            Directory.Delete(_folder, recursive: true);
        }

        protected override async Task LaunchAsync()
        {
            if (!Directory.Exists(Data))
            {
                if (Environment.UserName is "root")
                {
                    await Machine.RunAsync("chown", Owner, _folder);
                }

                await RunAsync("initdb", "-D", Data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync");
            }

            var (program, arguments) = Command(
                "postgres",
                ["-D", Data, "-p", $"{Port}", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", .. settings]);
            _process = Machine.Start(program, arguments);
            _process.BeginOutputReadLine();
            _process.BeginErrorReadLine();
        }

        private static string Owner { get; } =
            File.ReadLines("/etc/passwd").Any(line => line.StartsWith("postgres:", StringComparison.Ordinal)) ? "postgres" : "nobody";

        private async Task RunAsync(string tool, params string[] arguments)
        {
            var (program, all) = Command(tool, arguments);
            await Machine.RunAsync(program, all);
        }

        private (string Program, string[] Arguments) Command(string tool, string[] arguments)
        {
            tool = Path.Combine(_binaries, tool);
            return Environment.UserName is "root"
                ? (
                    "setpriv",
                    [$"--reuid={Owner}", "--regid", Owner is "nobody" ? "nogroup" : Owner, "--clear-groups", "--", tool, .. arguments])
                : (tool, arguments);
        }

        /// <summary>Signals all processes of the server, which has one per connection. Returns the children.</summary>
        private async Task<int[]> SignalAllAsync(string signal)
        {
            // The children are looked up first, because a killed parent has none. A stopped parent has no new ones.
            var before = await ChildrenAsync();
            await Machine.SignalAsync(_process!.Id, signal);
            var children = signal is "KILL" ? before : await ChildrenAsync();
            if (children.Length > 0)
            {
                // One may have ended meanwhile.
                await Machine.RunAsync("sh", "-c", $"kill -{signal} {string.Join(' ', children)} 2>/dev/null || true");
            }

            return children;
        }

        private async Task<int[]> ChildrenAsync()
        {
            var children = $"/proc/{_process!.Id}/task/{_process.Id}/children";
            var list = File.Exists(children)
                ? await File.ReadAllTextAsync(children)
                : await Machine.RunAsync("pgrep", "-P", $"{_process.Id}");
            return
            [
                .. list.Split([' ', '\n'], StringSplitOptions.RemoveEmptyEntries).Select(
                    pid => int.Parse(pid, CultureInfo.InvariantCulture)),
            ];
        }
    }

    private sealed class ContainerPostgres(int port, string[] settings) : PostgresServer(port)
    {
        private readonly PostgreSqlContainer _container = new PostgreSqlBuilder("postgres:17")
            .WithPassword(Password).WithPortBinding(port, 5432).WithCommand(settings).Build();

        public override Task PauseAsync() => _container.PauseAsync();

        public override Task ResumeAsync() => _container.UnpauseAsync();

        public override async Task StopAsync() => await Machine.RunAsync("docker", "stop", _container.Id);

        public override async Task KillAsync() => await Machine.RunAsync("docker", "kill", _container.Id);

        public override ValueTask DisposeAsync() => _container.DisposeAsync();

        protected override Task LaunchAsync() => _container.State is TestcontainersStates.Undefined
            ? _container.StartAsync()
            : Machine.RunAsync("docker", "start", _container.Id);
    }
}
