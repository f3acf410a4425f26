using CachingApi.Storage;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Storage;

public sealed class RedisInfoTests(TestServers servers)
{
    [Fact]
    public void A_node_is_read_from_its_info_and_what_is_absent_stays_so()
    {
        var node = RedisNode.Parse(
            "cache", "redis:6379", "# Memory\r\nused_memory:1024\r\nmaxmemory_policy:allkeys-lfu\r\nmem_fragmentation_ratio:1.25\r\n# Keyspace\r\ndb0:keys=7,expires=3,avg_ttl=12\r\n");

        Assert.True(node.Up);
        Assert.Equal(new() { ["used_memory"] = 1024, ["mem_fragmentation_ratio"] = 1.25 }, node.Fields.ToDictionary());
        Assert.Equal(new() { ["db0"] = new(7, 3) }, node.Keys.ToDictionary());
        Assert.Equal("allkeys-lfu", node.EvictionPolicy);
    }

    [Fact]
    public async Task A_node_that_does_not_answer_says_nothing_but_that()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString });
        await Eventually.TrueAsync(async () => await SamplesAsync(api, redis) is { Length: > 15 }, "the numbers of the node");

        await redis.PauseAsync();

        await Eventually.TrueAsync(
            async () => await SamplesAsync(api, redis) is [var only] && only == $$"""redis_up{node="{{redis.ConnectionString}}",role="state"} 0""",
            "nothing but redis_up 0");
        await redis.ResumeAsync();
        await Eventually.TrueAsync(async () => await SamplesAsync(api, redis) is { Length: > 15 }, "the numbers of the node");
    }

    private static async Task<string[]> SamplesAsync(ApiNode api, RedisServer redis) =>
        [.. (await api.Anonymous.GetStringAsync("/metrics")).Split('\n').Where(line => line.Contains($"node=\"{redis.ConnectionString}\"", StringComparison.Ordinal))];
}
