using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

public sealed class RedisInfoTests(TestServers servers)
{
    [Fact]
    public void A_node_is_read_from_its_info_and_absent_fields_stay_absent()
    {
        var node = RedisNode.Parse(
            "cache",
            "redis:6379",
            "# Memory\r\nused_memory:1024\r\nmaxmemory_policy:allkeys-lfu\r\nmem_fragmentation_ratio:1.25\r\n"
                + "# Keyspace\r\ndb0:keys=7,expires=3,avg_ttl=12\r\n");

        Assert.True(node.Up);
        Assert.Equal(new() { ["used_memory"] = 1024, ["mem_fragmentation_ratio"] = 1.25 }, node.Fields.ToDictionary());
        Assert.Equal(new() { ["db0"] = new(7, 3) }, node.Keys.ToDictionary());
        Assert.Equal("allkeys-lfu", node.EvictionPolicy);
    }

    [Fact]
    public async Task A_node_that_does_not_answer_has_only_the_metric_up()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis.ConnectionString);
        await Eventually.TrueAsync(() => Samples(node, redis) is { Length: > 15 }, "the numbers of the node");

        await redis.PauseAsync();

        await Eventually.TrueAsync(
            () => Samples(node, redis) is [var only] && only == $$"""redis.up{node="{{redis.ConnectionString}}",role="state"} 0""",
            "only redis.up 0");
        await redis.ResumeAsync();
        await Eventually.TrueAsync(() => Samples(node, redis) is { Length: > 15 }, "the numbers of the node");
    }

    [Fact]
    public async Task A_node_that_does_not_allow_INFO_has_only_the_metric_up()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await connection.GetServers()[0].ExecuteAsync("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-info");
        await using var node = await StartAsync($"{redis.ConnectionString},user=limited,password=secret");

        await Eventually.TrueAsync(() => Samples(node, redis) is { Length: > 0 }, "the first look");

        Assert.Equal([$$"""redis.up{node="{{redis.ConnectionString}}",role="state"} 1"""], Samples(node, redis));
    }

    [Fact]
    public async Task Every_node_is_looked_at_and_one_server_for_both_is_looked_at_once()
    {
        await using var node = await StartAsync(state: null);
        var nodes = servers.Redis.Split(',').Length;

        await Eventually.TrueAsync(() => node.Metric("redis.up", ("role", "cache")) == nodes, "every node");

        Assert.Equal(0, node.Metric("redis.up", ("role", "state")));
        Assert.True(node.Metric("redis.memory_used_bytes", ("role", "cache")) > 500_000 * nodes);
    }

    [Fact]
    public async Task Frequent_reads_do_not_ask_redis_more_often()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await using var node = await StartAsync(redis.ConnectionString);
        await Eventually.TrueAsync(() => Samples(node, redis) is { Length: > 15 }, "the numbers of the node");
        var start = Stopwatch.GetTimestamp();
        var before = await SectionsAskedAsync(connection);

        for (var scrape = 0; scrape < 100; scrape++)
        {
            Samples(node, redis);
        }

        // Redis may be asked once in any five seconds.
        var seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        Assert.InRange(await SectionsAskedAsync(connection) - before, 0, 10 + 2 * seconds);
    }

    /// <summary>How often the server was asked for INFO.</summary>
    private static async Task<double> SectionsAskedAsync(ConnectionMultiplexer connection)
    {
        var stats = (string)(await connection.GetDatabase().ExecuteAsync("INFO", "commandstats"))!;
        return double.Parse(Regex.Match(stats, @"cmdstat_info:calls=(\d+)").Groups[1].Value, CultureInfo.InvariantCulture);
    }

    private static string[] Samples(CacheNode node, RedisServer redis) =>
        [.. node.Samples().Where(sample => sample.Contains($"node=\"{redis.ConnectionString}\"", StringComparison.Ordinal))];

    private Task<CacheNode> StartAsync(string? state) => CacheNode.StartAsync(
        servers,
        options => options.RedisState = state ?? options.RedisState,
        services: services => services.AddHostedService<RedisInfo>());
}
