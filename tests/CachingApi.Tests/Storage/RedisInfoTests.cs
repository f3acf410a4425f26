using CachingApi.Storage;

namespace CachingApi.Tests.Storage;

public sealed class RedisInfoTests
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
}
