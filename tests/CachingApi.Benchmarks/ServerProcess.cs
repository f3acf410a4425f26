using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace CachingApi.Benchmarks;

/// <summary>A service in its own process, measured as it is deployed; its console output is discarded.</summary>
internal sealed class ServerProcess : IDisposable
{
    private static readonly TimeSpan StartTimeout = TimeSpan.FromSeconds(60);

    private readonly Process _process;

    private ServerProcess(Process process, string url) => (_process, Url) = (process, url);

    public string Url { get; }

    /// <summary>The memory that the process holds, in bytes.</summary>
    public long Memory
    {
        get
        {
            _process.Refresh();
            return _process.WorkingSet64;
        }
    }

    /// <summary>The processor time that the process has used.</summary>
    public TimeSpan Cpu
    {
        get
        {
            _process.Refresh();
            return _process.TotalProcessorTime;
        }
    }

    /// <param name="arguments">The program, which is run by <c>dotnet</c>, and its arguments; <c>{url}</c> stands for its address.</param>
    public static async Task<ServerProcess> StartAsync(string[] arguments, IReadOnlyDictionary<string, string> environment)
    {
        var url = $"http://127.0.0.1:{FreePort()}";
        var start = new ProcessStartInfo("/bin/sh", ["-c", "exec dotnet \"$@\" >/dev/null", "sh", .. arguments.Select(
            argument => argument == "{url}" ? url : argument)]);
        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        start.Environment["ASPNETCORE_URLS"] = url;
        var server = new ServerProcess(Process.Start(start)!, url);
        for (var began = Stopwatch.GetTimestamp(); !await IsListeningAsync(new(url)); await Task.Delay(50))
        {
            if (server._process.HasExited || Stopwatch.GetElapsedTime(began) > StartTimeout)
            {
                server.Dispose();
                throw new InvalidOperationException($"{arguments[0]} did not start.");
            }
        }

        return server;
    }

    public void Dispose()
    {
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }

    private static async Task<bool> IsListeningAsync(Uri url)
    {
        using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp);
        try
        {
            await socket.ConnectAsync(IPAddress.Loopback, url.Port);
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }

    private static int FreePort()
    {
        using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return ((IPEndPoint)socket.LocalEndPoint!).Port;
    }
}
