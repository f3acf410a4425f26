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
    [InlineData("Redis__KeyPrefix", "{a}", "Redis:KeyPrefix")]
    [InlineData("RateLimits__Policies__login__Limit", "0", "RateLimits:Policies:login:Limit")]
    [InlineData("RateLimits__Policies__weather__Limit", "many", "RateLimits:Policies:weather:Limit")]
    [InlineData("RateLimits__Policies__weather__Limits", "7", "'Limits'")]
    [InlineData("RateLimits__Policies__login__Window", "00:00:00", "RateLimits:Policies:login:Window")]
    [InlineData("RateLimits__Policies__login__Algorithm", "hope", "RateLimits:Policies:login:Algorithm")]
    [InlineData("RateLimits__Policies__login__Partition", "everybody", "RateLimits:Policies:login:Partition")]
    [InlineData("RateLimits__Policies__login__OnStoreFailure", "panic", "RateLimits:Policies:login:OnStoreFailure")]
    [InlineData("RateLimits__Policies__demo-sliding-window__Limit", "1001", "RateLimits:Policies:demo-sliding-window:Limit")]
    [InlineData("RateLimits__Policies__A \"new\" one__Limit", "1", "RateLimits:Policies:A \"new\" one")]
    [InlineData("Network__KnownProxies__0", "everybody", "Network:KnownProxies")]
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
