using CachingApi.Caching;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Tests.Caching;

/// <summary>The memory tier of two nodes, and the backplane between them.</summary>
public sealed class MemoryTierTests(TestServers servers)
{
    [Fact]
    public async Task The_second_read_comes_from_memory_over_http_too()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Cache:Users:MemoryTtl"] = "00:01:00" });
        await TrustedAsync(api);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();

        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
        Assert.Matches(@"^CachingApi; hit; ttl=\d+; detail=memory$", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());

        Assert.Equal(1, await api.MetricAsync("cache_requests_total", ("cache", "users"), ("tier", "memory"), ("result", "miss")));
        Assert.Equal(1, await api.MetricAsync("cache_requests_total", ("cache", "users"), ("tier", "memory"), ("result", "hit")));
        Assert.Equal(1, await api.MetricAsync("cache_entries", ("cache", "users")));
    }

    /// <summary>Waits for the first heartbeat of the backplane, after which memory is used.</summary>
    internal static async Task TrustedAsync(params ApiNode[] nodes)
    {
        foreach (var node in nodes)
        {
            await Eventually.TrueAsync(() => node.Services.GetRequiredService<Backplane>().IsTrusted
                && node.Services.GetRequiredService<RedisTier>().IsTrusted);
        }
    }
}
