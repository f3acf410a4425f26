using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text.RegularExpressions;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Api;

/// <summary>
/// The service as its own process, for tests that a host inside the test process does not allow: start, end and kill.
/// </summary>
internal sealed partial class ApiProcess : IDisposable
{
    private readonly Process _process;
    private readonly ConcurrentQueue<string> _log = new();

    private ApiProcess(Dictionary<string, string> settings, string[] arguments)
    {
        // artifacts/bin/CachingApi.Tests/<configuration> stands beside artifacts/bin/CachingApi/<configuration>.
        var here = new DirectoryInfo(AppContext.BaseDirectory);
        var service = Path.Combine(here.Parent!.Parent!.FullName, "CachingApi", here.Name, "CachingApi.dll");
        var start = new ProcessStartInfo("dotnet", [service, .. arguments, "--urls", "http://127.0.0.1:0"])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };

        // The developer's environment must not affect tests.
        foreach (var name in start.Environment.Keys.Where(
            name => name.StartsWith("ConnectionStrings", StringComparison.OrdinalIgnoreCase)).ToArray())
        {
            start.Environment.Remove(name);
        }

        foreach (var (name, value) in settings)
        {
            start.Environment[name.Replace(":", "__", StringComparison.Ordinal)] = value;
        }

        _process = new() { StartInfo = start };
        _process.OutputDataReceived += Keep;
        _process.ErrorDataReceived += Keep;
        _process.Start();
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    public HttpClient Client { get; } = new();

    /// <summary>The lines that the process has written so far.</summary>
    public string[] Log => [.. _log];

    /// <summary>Starts the process and waits until it answers.</summary>
    public static async Task<ApiProcess> StartAsync(Dictionary<string, string> settings)
    {
        var process = new ApiProcess(settings, []);
        await Eventually.TrueAsync(
            () => process._process.HasExited || process._log.Any(line => Listening().IsMatch(line)), "the service to start");
        var address = process._log.Select(line => Listening().Match(line)).FirstOrDefault(match => match.Success);
        Assert.True(address is not null, $"The service did not start: {string.Join('\n', process._log)}");
        process.Client.BaseAddress = new(address.Groups[1].Value);
        return process;
    }

    /// <summary>Runs a process that ends by itself.</summary>
    public static async Task<(int ExitCode, string[] Log)> RunAsync(Dictionary<string, string> settings, params string[] arguments)
    {
        using var process = new ApiProcess(settings, arguments);
        await process._process.WaitForExitAsync().WaitAsync(TimeSpan.FromMinutes(1));
        return (process._process.ExitCode, process.Log);
    }

    /// <summary>SIGKILL.</summary>
    public async Task KillAsync()
    {
        _process.Kill();
        await _process.WaitForExitAsync();
    }

    public void Dispose()
    {
        Client.Dispose();
        if (!_process.HasExited)
        {
            _process.Kill();
        }

        _process.Dispose();
    }

    /// <remarks>The first one: a port for operations is listed after it.</remarks>
    [GeneratedRegex(@"Now listening on: [\\""]*(http://[\w.:]+)")]
    private static partial Regex Listening();

    private void Keep(object sender, DataReceivedEventArgs line)
    {
        if (!string.IsNullOrEmpty(line.Data))
        {
            _log.Enqueue(line.Data);
        }
    }
}
