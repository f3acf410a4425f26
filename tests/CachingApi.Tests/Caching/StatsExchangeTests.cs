using System.Text.Json;
using CachingApi.Administration;
using CachingApi.Caching;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Tests.Caching;

/// <summary>The statistics of several processes. The nodes of a test are in one process, so they have the same name.</summary>
public sealed class StatsExchangeTests(TestServers servers)
{
    [Fact]
    public async Task Each_process_is_in_the_answer_of_any_of_them()
    {
        await using var one = await ApiNode.StartAsync(servers);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: one);
        var user = await one.CreateUserAsync();
        using var admin = await one.AdminAsync();
        using var adminThere = await other.AdminAsync();
        for (var read = 0; read < 3; read++)
        {
            await adminThere.GetAsync($"/users/{user.Id}");
        }

        await Eventually.TrueAsync(async () => (await ReadAsync(admin)).Processes.Length == 2);
        var (processes, complete) = await ReadAsync(admin);

        Assert.True(complete);
        Assert.Equal([0, 3], processes.Select(LookUps).Order());
        Assert.Equal([0, 3], (await ReadAsync(adminThere)).Processes.Select(LookUps).Order());
    }

    [Fact]
    public async Task A_process_that_has_ended_is_missed_once()
    {
        await using var one = await ApiNode.StartAsync(servers);
        var other = await ApiNode.StartAsync(servers, nodeOf: one);
        using var admin = await one.AdminAsync();
        await Eventually.TrueAsync(async () => (await ReadAsync(admin)).Processes.Length == 2);

        await other.DisposeAsync();

        await Eventually.TrueAsync(async () => await ReadAsync(admin) is ({ Length: 1 }, true));
    }

    [Fact]
    public async Task While_redis_is_away_the_process_that_answers_is_in_the_answer()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var one = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString, ["Redis:StateDeadline"] = "00:00:00.300" });
        await using var other = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString }, nodeOf: one);
        var exchange = one.Services.GetRequiredService<StatsExchange>();
        await Eventually.TrueAsync(async () => (await exchange.AskAsync(CancellationToken.None)).Processes.Count == 2);

        await redis.PauseAsync();
        var meanwhile = await exchange.AskAsync(CancellationToken.None);
        await redis.ResumeAsync();

        Assert.False(meanwhile.Complete);
        Assert.Single(meanwhile.Processes);
        await Eventually.TrueAsync(async () => await exchange.AskAsync(CancellationToken.None) is { Complete: true, Processes.Count: 2 });
    }

    [Fact]
    public async Task The_history_has_the_statistics_of_the_last_15_minutes()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var one = await ApiNode.StartAsync(servers, time: time);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: one);
        using var admin = await one.AdminAsync();
        await Eventually.TrueAsync(async () => (await ReadAsync(admin)).Processes.Length == 2);
        Assert.Equal([0, 0], (await HistoryAsync(admin)).Select(history => history.Length));

        for (var interval = 1; interval <= 92; interval++)
        {
            time.Advance(TimeSpan.FromSeconds(10));
            await Eventually.TrueAsync(async () =>
                (await HistoryAsync(admin)).Max(history => history.Length) == Math.Min(interval, 90));
        }

        var kept = (await HistoryAsync(admin)).MaxBy(history => history.Length)!;
        Assert.Equal(90, kept.Length);
        Assert.Equal(
            TimeSpan.FromSeconds(890), kept[^1].GetProperty("at").GetDateTimeOffset() - kept[0].GetProperty("at").GetDateTimeOffset());
        Assert.Equal(0, kept[0].GetProperty("caches")[0].GetProperty("hotKeys").GetArrayLength());
    }

    [Fact]
    public async Task The_keys_that_are_read_most_are_in_the_statistics()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        for (var read = 0; read < 5; read++)
        {
            await admin.GetAsync($"/users/{user.Id}");
        }

        var users = (await ReadAsync(admin)).Processes.Single().GetProperty("caches").EnumerateArray()
            .Single(cache => cache.GetProperty("cache").GetString() == UserCache.Users);

        var hot = users.GetProperty("hotKeys")[0];
        Assert.Equal($"{user.Id}", hot.GetProperty("id").GetString());
        Assert.InRange(hot.GetProperty("perSecond").GetDouble(), 0.01, 5);
    }

    [Fact]
    public async Task Reads_that_memory_serves_are_sampled()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Cache:Users:MemoryTtl"] = "00:05:00" });
        var (hot, cold) = (await api.CreateUserAsync(), await api.CreateUserAsync());
        var cache = api.Services.GetRequiredService<Cache<User>>();
        for (var read = 0; read < 100_000; read++)
        {
            await cache.GetAsync($"{(read % 10 == 0 ? cold : hot).Id}", CancellationToken.None);
        }

        var keys = cache.HotKeys(2);

        Assert.Equal([$"{hot.Id}", $"{cold.Id}"], keys.Select(key => key.Id));
        Assert.InRange(keys[1].PerSecond / keys[0].PerSecond, 0, 0.5);
    }

    private static async Task<(JsonElement[] Processes, bool Complete)> ReadAsync(HttpClient admin)
    {
        var answer = await (await admin.GetAsync("/cache/stats/processes")).JsonAsync();
        return ([.. answer.GetProperty("processes").EnumerateArray()], answer.GetProperty("complete").GetBoolean());
    }

    private static async Task<JsonElement[][]> HistoryAsync(HttpClient admin) =>
    [
        .. (await (await admin.GetAsync("/cache/stats/history")).JsonAsync()).EnumerateArray()
            .Select(history => history.GetProperty("stats").EnumerateArray().ToArray()),
    ];

    private static long LookUps(JsonElement stats) => stats.GetProperty("caches").EnumerateArray()
        .Where(cache => cache.GetProperty("cache").GetString() == UserCache.Users)
        .SelectMany(cache => cache.GetProperty("tiers").EnumerateArray())
        .Where(tier => tier.GetProperty("tier").GetString() == "redis")
        .Sum(tier => tier.GetProperty("hits").GetInt64() + tier.GetProperty("misses").GetInt64());
}
