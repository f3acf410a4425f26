using System.Diagnostics;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Hosting;

/// <summary>The service as a process: how it starts, and how it says why it does not.</summary>
public sealed class StartTests(TestServers servers)
{
    [Fact]
    public async Task Without_connection_strings_it_stops_with_one_line_that_says_what_to_do()
    {
        var (exitCode, output) = await RunAsync([]);

        Assert.Equal(1, exitCode);
        var line = Assert.Single(output.Trim().Split('\n'));
        Assert.Contains("ConnectionStrings:Postgres", line, StringComparison.Ordinal);
        Assert.Contains("ConnectionStrings:Redis", line, StringComparison.Ordinal);
        Assert.Contains("./dev run", line, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("Cache__Users__Jitter", "7", "Cache:Users:Jitter")]
    [InlineData("Cache__Users__Ttl", "soon", "Cache:Users:Ttl")]
    [InlineData("Cache__Users__Ttl", "00:00:00", "Cache:Users:Ttl")]
    [InlineData("Cache__Users__WriteStrategy", "hope", "Cache:Users:WriteStrategy")]
    [InlineData("Cache__RedisDeadline", "-00:00:01", "Cache:RedisDeadline")]
    [InlineData("Sessions__Idle", "00:00:00", "Sessions:Idle")]
    [InlineData("Admin__Email", "root", "Admin:Email")]
    [InlineData("Weather__ForecastUrl", "ftp://example.org", "Weather:ForecastUrl")]
    [InlineData("Weather__Timeout", "00:01:00", "Weather:Timeout")]
    [InlineData("Weather__Budget__PerDay", "0", "Weather:Budget:PerDay")]
    [InlineData("Weather__Prewarm__0", "a/b", "Weather:Prewarm")]
    [InlineData("Cache__Weather__Ttl", "00:00:00", "Cache:Weather:Ttl")]
    [InlineData("Redis__KeyPrefix", "{a}", "Redis:KeyPrefix")]
    public async Task A_bad_value_stops_the_start_and_is_named(string variable, string value, string name)
    {
        var (exitCode, output) = await RunAsync(new()
        {
            ["ConnectionStrings__Postgres"] = servers.Postgres,
            ["ConnectionStrings__Redis"] = servers.Redis,
            [variable] = value,
        });

        Assert.Equal(1, exitCode);
        Assert.Contains(name, Assert.Single(output.Trim().Split('\n')), StringComparison.Ordinal);
    }

    private static async Task<(int ExitCode, string Output)> RunAsync(Dictionary<string, string> environment)
    {
        // artifacts/bin/CachingApi.Tests/<configuration> stands beside artifacts/bin/CachingApi/<configuration>.
        var here = new DirectoryInfo(AppContext.BaseDirectory);
        var service = Path.Combine(here.Parent!.Parent!.FullName, "CachingApi", here.Name, "CachingApi.dll");
        var start = new ProcessStartInfo("dotnet", [service, "--urls", "http://127.0.0.1:0"]) { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (var name in start.Environment.Keys.Where(name => name.StartsWith("ConnectionStrings", StringComparison.OrdinalIgnoreCase)).ToArray())
        {
            start.Environment.Remove(name);
        }

        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        using var process = Process.Start(start)!;
        var output = Task.WhenAll(process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync().WaitAsync(TimeSpan.FromMinutes(1));
        return (process.ExitCode, string.Concat(await output));
    }
}
