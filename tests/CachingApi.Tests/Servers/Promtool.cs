using System.Diagnostics;

namespace CachingApi.Tests.Servers;

/// <summary>Prometheus's own checks.</summary>
internal static class Promtool
{
    /// <summary>
    /// Checks the names and types of metrics: <c>promtool check metrics</c> must report no problem in a scrape.
    /// </summary>
    public static async Task CheckMetricsAsync(string metrics)
    {
        using var process = Process.Start(new ProcessStartInfo(Find("promtool"), ["check", "metrics"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        await process.StandardInput.WriteAsync(metrics);
        process.StandardInput.Close();
        var said = await process.StandardOutput.ReadToEndAsync() + await process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        Assert.True(process.ExitCode == 0 && said.Length == 0, said);
    }

    /// <summary>Runs promtool; the problems that it reports are the failure.</summary>
    public static Task RunAsync(params string[] arguments) => Machine.RunAsync(Find("promtool"), arguments);

    public static string Find(string program) => Machine.Find(program, ["/opt/homebrew/bin", "/usr/local/bin"])
        ?? throw new InvalidOperationException($"{program} is missing: ./dev test installs it by apt; otherwise install Prometheus.");
}
