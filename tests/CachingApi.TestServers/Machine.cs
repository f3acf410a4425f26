using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using DotNet.Testcontainers.Builders;
using Testcontainers.Redis;

namespace CachingApi.Tests.Servers;

/// <summary>The programs on this machine that run servers.</summary>
internal static class Machine
{
    private static readonly Lazy<bool> DockerAnswers = new(AskDocker);

    public static bool HasDocker => DockerAnswers.Value;

    public static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    /// <summary>
    /// A new folder for a server's files: in memory if there is much of it, because a database of its own for each test is many files.
    /// </summary>
    public static DirectoryInfo CreateFolder(string prefix)
    {
        const string Memory = "/dev/shm";
        const long Enough = 8L << 30; // bytes
        return OperatingSystem.IsLinux() && Directory.Exists(Memory) && new DriveInfo(Memory).AvailableFreeSpace > Enough
            ? Directory.CreateDirectory(
                Path.Combine(Memory, $"{prefix}{Guid.NewGuid():N}"),
                UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute)
            : Directory.CreateTempSubdirectory(prefix);
    }

    public static string? FindRedis() => Find("redis-server", []) ?? Find("valkey-server", []);

    public static string? FindChromium() =>
        new[] { "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "Google Chrome" }
        .Select(name => Find(name, ["/Applications/Google Chrome.app/Contents/MacOS"]))
        .FirstOrDefault(found => found is not null);

    /// <summary>The folder of PostgreSQL's binaries, the newest version first.</summary>
    public static string? FindPostgres()
    {
        var folders = new[] { "/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt" }
            .Where(Directory.Exists)
            .SelectMany(root => Directory.GetDirectories(root))
            .OrderByDescending(folder => int.TryParse(Path.GetFileName(folder).Replace("postgresql@", ""), out var version) ? version : 0)
            .Select(folder => Path.Combine(folder, "bin"));
        return Find("initdb", folders) is { } initdb
            ? Path.GetDirectoryName(File.ResolveLinkTarget(initdb, returnFinalTarget: true)?.FullName ?? initdb)
            : null;
    }

    /// <summary>Sends a POSIX signal (STOP, CONT, INT, KILL …) to a process.</summary>
    public static Task SignalAsync(int pid, string signal) => RunAsync("sh", "-c", $"kill -{signal} {pid}");

    /// <summary>Whether a process is running; a zombie is not.</summary>
    public static bool IsRunning(int pid)
    {
        try
        {
            using var process = Process.GetProcessById(pid);
            return !process.HasExited
                && !(File.Exists($"/proc/{pid}/stat") && File.ReadAllText($"/proc/{pid}/stat").Contains(") Z ", StringComparison.Ordinal));
        }
        catch (Exception error) when (error is ArgumentException or InvalidOperationException or IOException)
        {
            return false;
        }
    }

    /// <summary>Runs a program to its end and returns what it wrote.</summary>
    public static async Task<string> RunAsync(string program, params string[] arguments)
    {
        using var process = Start(program, arguments);
        var output = await process.StandardOutput.ReadToEndAsync();
        var errors = await process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        return process.ExitCode == 0
            ? output
            : throw new InvalidOperationException($"{program} ended with {process.ExitCode}: {output}{errors}");
    }

    public static Process Start(string program, params string[] arguments) =>
        Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;

    public static string? Find(string program, IEnumerable<string> folders) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Concat(folders)
            .Select(folder => Path.Combine(folder, program))
            .FirstOrDefault(File.Exists);

    private static bool AskDocker()
    {
        try
        {
            new RedisBuilder("redis:8").Build();
            return true;
        }
        catch (DockerUnavailableException)
        {
            return false;
        }
    }
}
