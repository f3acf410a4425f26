using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;

namespace CachingApi.Benchmarks;

/// <param name="P99">The 99th percentile of the latency, in milliseconds.</param>
/// <param name="Cpu">The processor time of the service per request, in microseconds.</param>
/// <param name="Errors">How many requests had no answer, or one with another status than 200 or 202.</param>
internal readonly record struct Load(double PerSecond, double P99, double Cpu, int Errors);

/// <summary>One request, as <c>load.lua</c> reads it.</summary>
internal sealed record Request(string Method, string Path, string Body = "", params string[] Headers)
{
    public override string ToString() => string.Join('\t', [Method, Path, Body, .. Headers]);
}

/// <summary>Runs wrk, which uses less processor time than a client in .NET.</summary>
internal static partial class Wrk
{
    private const int Connections = 32;

    /// <exception cref="InvalidOperationException">wrk failed.</exception>
    public static async Task<Load> RunAsync(ServerProcess server, string requests, int seconds)
    {
        var start = new ProcessStartInfo("wrk",
            [
                "-t1", $"-c{Connections}", "-d", $"{seconds}s", "--latency",
                "-s", Path.Combine(AppContext.BaseDirectory, "load.lua"), server.Url,
            ])
        {
            RedirectStandardOutput = true,
            Environment = { ["REQUESTS"] = requests },
        };
        var before = server.Cpu;
        using var process = Process.Start(start)!;
        var output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        if (process.ExitCode != 0)
        {
            throw new InvalidOperationException($"wrk against {server.Url}:\n{output}");
        }

        var p99 = P99().Match(output);
        var unit = p99.Groups["unit"].Value switch { "us" => 0.001, "ms" => 1, _ => 1000 };
        var cpu = (server.Cpu - before).TotalMicroseconds / Number(Requests().Match(output));
        var errors = Errors().Matches(output).Sum(match => int.Parse(match.Groups["number"].Value, CultureInfo.InvariantCulture));
        return new(Number(PerSecond().Match(output)), Number(p99) * unit, cpu, errors);
    }

    private static double Number(Match match) => double.Parse(match.Groups["number"].Value, CultureInfo.InvariantCulture);

    [GeneratedRegex("(?:Non-2xx or 3xx responses:|Socket errors: connect|, read|, write|, timeout) (?<number>[0-9]+)")]
    private static partial Regex Errors();

    [GeneratedRegex("(?<number>[0-9]+) requests in")]
    private static partial Regex Requests();

    [GeneratedRegex(@"Requests/sec:\s+(?<number>[0-9.]+)")]
    private static partial Regex PerSecond();

    [GeneratedRegex(@"99%\s+(?<number>[0-9.]+)(?<unit>us|ms|s)")]
    private static partial Regex P99();
}
