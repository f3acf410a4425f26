using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Hosting;

/// <summary>The service as a process: its start, and the errors that prevent it.</summary>
public sealed class StartTests(TestServers servers)
{
    [Fact]
    public async Task Without_connection_strings_it_stops_with_one_line_that_names_a_remedy()
    {
        var (exitCode, log) = await ApiProcess.RunAsync([]);

        Assert.Equal(1, exitCode);
        var line = Assert.Single(log);
        Assert.Contains("ConnectionStrings:Postgres", line, StringComparison.Ordinal);
        Assert.Contains("ConnectionStrings:Redis", line, StringComparison.Ordinal);
        Assert.Contains("./dev run", line, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("Cache:Users:Jitter", "7")]
    [InlineData("Cache:Users:Ttl", "soon")]
    [InlineData("Cache:Users:Ttl", "00:00:00")]
    [InlineData("Cache:Users:WriteStrategy", "hope")]
    [InlineData("Cache:Users:Prewarm", "10001")]
    [InlineData("Cache:RedisDeadline", "-00:00:01")]
    [InlineData("Cache:Verify", "1001")]
    [InlineData("Sessions:Idle", "00:00:00")]
    [InlineData("Sessions:MemoryTtl", "00:05:01")]
    [InlineData("Sessions:MemoryTtl", "-00:00:01")]
    [InlineData("Admin:Email", "root")]
    [InlineData("Redis:KeyPrefix", "{a}")]
    [InlineData("Redis:KeyPrefix", "longer-than-the-name-of-a-replication-slot-may-be-which-begins-with-it")]
    [InlineData("RateLimits:Policies:login:Limit", "0")]
    [InlineData("RateLimits:Policies:weather:Limit", "many")]
    [InlineData("RateLimits:Policies:weather:Limits", "7", "'Limits'")]
    [InlineData("RateLimits:Policies:login:Window", "00:00:00")]
    [InlineData("RateLimits:Policies:login:Algorithm", "hope")]
    [InlineData("RateLimits:Policies:login:Partition", "everybody")]
    [InlineData("RateLimits:Policies:login:OnStoreFailure", "panic")]
    [InlineData("RateLimits:Policies:demo-sliding-window:Limit", "1001")]
    [InlineData("RateLimits:Policies:A \"new\" one:Limit", "1", "RateLimits:Policies:A \"new\" one")]
    [InlineData("Network:KnownProxies:0", "everybody", "Network:KnownProxies")]
    [InlineData("Network:MaxConnections", "0")]
    [InlineData("Network:KeepAlive", "00:00:00")]
    [InlineData("Operations:Port", "65536")]
    [InlineData("Operations:Port", "many")]
    [InlineData("Swagger:Enabled", "perhaps")]
    [InlineData("Weather:ForecastUrl", "ftp://example.org")]
    [InlineData("Weather:Timeout", "00:01:00")]
    [InlineData("Weather:Budget:PerDay", "0")]
    [InlineData("Weather:Prewarm:0", "a/b", "Weather:Prewarm")]
    [InlineData("Cache:Weather:Ttl", "00:00:00")]
    public async Task A_bad_value_stops_the_start_and_is_named(string name, string value, string? named = null)
    {
        var (exitCode, log) = await ApiProcess.RunAsync(new()
        {
            ["ConnectionStrings:Postgres"] = servers.Postgres,
            ["ConnectionStrings:Redis"] = servers.Redis,
            [name] = value,
        });

        Assert.Equal(1, exitCode);
        Assert.Contains(named ?? name, Assert.Single(log), StringComparison.Ordinal);
    }
}
