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

    /// <remarks>One process has many bad values, because a process costs more than all checks.</remarks>
    [Fact]
    public async Task Bad_values_stop_the_start_and_each_is_named()
    {
        await AssertNamedAsync(
            ("Cache:Users:Jitter", "7", null),
            ("Cache:Users:Ttl", "00:00:00", null),
            ("Cache:Users:WriteStrategy", "hope", null),
            ("Cache:Users:Prewarm", "10001", null),
            ("Cache:RedisDeadline", "-00:00:01", null),
            ("Cache:Verify", "1001", null),
            ("Cache:Weather:Ttl", "00:00:00", null),
            ("Sessions:Idle", "00:00:00", null),
            ("Sessions:MemoryTtl", "00:05:01", null),
            ("Admin:Email", "root", null),
            ("RateLimits:Policies:login:Limit", "0", null),
            ("RateLimits:Policies:login:Window", "00:00:00", null),
            ("RateLimits:Policies:login:Algorithm", "hope", null),
            ("RateLimits:Policies:login:Partition", "everybody", null),
            ("RateLimits:Policies:login:OnStoreFailure", "panic", null),
            ("RateLimits:Policies:demo-sliding-window:Limit", "1001", null),
            ("RateLimits:Policies:A \"new\" one:Limit", "1", "RateLimits:Policies:A \"new\" one"),
            ("Network:MaxConnections", "0", null),
            ("Network:KeepAlive", "00:00:00", null),
            ("Operations:Port", "65536", null),
            ("Weather:Timeout", "00:01:00", null),
            ("Weather:Budget:PerDay", "0", null));
        await AssertNamedAsync(
            ("Sessions:MemoryTtl", "-00:00:01", null),
            ("Network:KnownProxies:0", "everybody", "Network:KnownProxies"),
            ("Weather:ForecastUrl", "ftp://example.org", null),
            ("Weather:Prewarm:0", "a/b", "Weather:Prewarm"),
            ("Redis:KeyPrefix", "{a}", null));
        await AssertNamedAsync(
            ("Redis:KeyPrefix", "longer-than-the-name-of-a-replication-slot-may-be-which-begins-with-it", null));
    }

    /// <remarks>The first value that cannot be converted ends the reading of the configuration.</remarks>
    [Theory]
    [InlineData("Cache:Users:Ttl", "soon")]
    [InlineData("RateLimits:Policies:weather:Limit", "many")]
    [InlineData("RateLimits:Policies:weather:Limits", "7", "'Limits'")]
    [InlineData("Operations:Port", "many")]
    [InlineData("Swagger:Enabled", "perhaps")]
    public Task A_value_that_cannot_be_converted_stops_the_start_and_is_named(string name, string value, string? named = null) =>
        AssertNamedAsync((name, value, named));

    private async Task AssertNamedAsync(params (string Name, string Value, string? Named)[] bad)
    {
        var (exitCode, log) = await ApiProcess.RunAsync(new(bad.ToDictionary(setting => setting.Name, setting => setting.Value))
        {
            ["ConnectionStrings:Postgres"] = servers.Postgres,
            ["ConnectionStrings:Redis"] = servers.Redis,
        });

        Assert.Equal(1, exitCode);
        var line = Assert.Single(log);
        Assert.All(bad, setting => Assert.Contains(setting.Named ?? setting.Name, line, StringComparison.Ordinal));
    }
}
