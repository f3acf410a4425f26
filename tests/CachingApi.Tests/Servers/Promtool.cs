using System.Diagnostics;

namespace CachingApi.Tests.Servers;

/// <summary>Prometheus's own checks.</summary>
internal static class Promtool
{
    /// <summary>
    /// Whether metrics are named and typed as they should be: <c>promtool check metrics</c> finds nothing to say of a scrape.
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

    /// <summary>Runs it; what it finds wrong is the failure.</summary>
    public static Task RunAsync(params string[] arguments) => Machine.RunAsync(Find("promtool"), arguments);

    public static string Find(string program) => Machine.Find(program, ["/opt/homebrew/bin", "/usr/local/bin"])
        ?? throw new InvalidOperationException($"{program} is missing: ./dev test brings it where it can, or install Prometheus.");
}
