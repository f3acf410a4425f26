using System.Globalization;
using CachingApi.Tests.Servers;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

public sealed class CoalescerTests(TestServers servers)
{
    [Fact]
    public async Task Look_ups_at_the_same_time_share_a_call_and_each_caller_has_its_own_answer()
    {
        const int Readers = 500;
        await using var redis = await RedisServer.StartAsync();
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        var engine = new Engine(node.Services);
        for (var thing = 0; thing < 100; thing++)
        {
            await engine.GetAsync(new Thing($"{thing}", 1), $"{thing}");
        }

        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await connection.GetServers()[0].ExecuteAsync("CONFIG", "RESETSTAT");
        double Leases() => node.Metric("cache.operation.duration", ("operation", "lease"));
        var leases = Leases();
        var results = await Task.WhenAll(Enumerable.Range(0, Readers).Select(reader => engine.GetAsync((Thing?)null, $"{reader % 100}")));

        Assert.All(results, result => Assert.Equal(CacheOutcome.RedisHit, result.Outcome));
        Assert.Equal(Enumerable.Range(0, Readers).Select(reader => $"{reader % 100}"), results.Select(result => Engine.Read(result)!.Name));
        // A reader that received another's answer would have detected that and asked for the lease.
        Assert.Equal(leases, Leases());
        var calls = await CallsAsync(connection);
        Assert.InRange(calls.Values.Sum(), 1, Readers - 1);
        Assert.True(calls.ContainsKey("cmdstat_mget"));
    }

    [Fact]
    public async Task Only_a_few_look_ups_of_large_entries_share_a_call()
    {
        const int Readers = 64;
        await using var redis = await RedisServer.StartAsync();
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        var engine = new Engine(node.Services);
        var large = new string('x', 200_000);
        for (var thing = 0; thing < Readers; thing++)
        {
            await engine.GetAsync(new Thing(large, 1), $"{thing}");
        }

        Assert.Equal(CacheOutcome.RedisHit, (await engine.GetAsync((Thing?)null, "0")).Outcome);
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        await connection.GetServers()[0].ExecuteAsync("CONFIG", "RESETSTAT");

        await Task.WhenAll(Enumerable.Range(0, Readers).Select(reader => engine.GetAsync((Thing?)null, $"{reader}")));

        // A megabyte has room for five of the entries.
        Assert.InRange((await CallsAsync(connection)).Values.Sum(), (Readers / 5) + 1, Readers);
    }

    private static async Task<Dictionary<string, int>> CallsAsync(ConnectionMultiplexer connection) =>
        (await connection.GetServers()[0].InfoAsync("commandstats"))
            .SelectMany(section => section)
            .Where(command => command.Key is "cmdstat_get" or "cmdstat_mget")
            .ToDictionary(command => command.Key,
                command => int.Parse(command.Value.Split(',')[0]["calls=".Length..], CultureInfo.InvariantCulture));
}
