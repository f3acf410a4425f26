using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Redis;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Tests.Sessions;

/// <summary>The state server fails: sessions, limits and queues are on it.</summary>
public sealed class StateDownTests(TestServers servers, ITestOutputHelper output)
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(1);

    [Theory]
    [InlineData("00:00:00")]
    [InlineData("00:00:30")]
    public async Task While_it_is_frozen_no_request_waits_for_two_deadlines_and_soon_none_waits(string memoryTtl)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis, memoryTtl);
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);
        var connections = api.Services.GetRequiredService<RedisConnections>();
        await TimeAsync(client, $"/users/{user.Id}", HttpStatusCode.OK);
        await TimeAsync(client, "/limits/demo-token-bucket", HttpStatusCode.OK);

        await redis.PauseAsync();
        var waits = new List<TimeSpan>();
        while (!connections.IsStateLeftAlone)
        {
            waits.Add(await TimeAsync(client, $"/users/{user.Id}", expected: null));
            waits.Add(await TimeAsync(api.Anonymous, "/limits/demo-token-bucket", HttpStatusCode.OK));
        }

        output.WriteLine($"{waits.Count} requests until the circuit was open; the longest: {waits.Max()}");
        Assert.True(waits.Max() < Deadline * 2, string.Join(' ', waits));

        waits.Clear();
        var away = await client.GetAsync($"/users/{user.Id}");
        await UserContractTests.AssertProblemAsync(away, HttpStatusCode.ServiceUnavailable);
        Assert.Equal("1", away.Header("Retry-After"));
        for (var request = 0; request < 5; request++)
        {
            waits.Add(await TimeAsync(client, $"/users/{user.Id}", HttpStatusCode.ServiceUnavailable));
            waits.Add(await TimeAsync(api.Anonymous, "/limits/demo-fixed-window", HttpStatusCode.OK));
        }

        var login = await api.Anonymous.PostAsJsonAsync("/sessions", new { email = user.Email, password = ApiNode.Password });
        await UserContractTests.AssertProblemAsync(login, HttpStatusCode.ServiceUnavailable);
        output.WriteLine($"With an open circuit, the mean of {waits.Count}: {waits.Average(wait => wait.TotalMilliseconds):F1} ms");
        Assert.True(waits.Min() < Deadline / 4, string.Join(' ', waits));
        Assert.True(waits.Sum(wait => wait.TotalSeconds) < Deadline.TotalSeconds, string.Join(' ', waits));

        await redis.ResumeAsync();
        var began = Stopwatch.GetTimestamp();
        await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{user.Id}")).StatusCode is HttpStatusCode.OK);
        output.WriteLine($"Back in use after {Stopwatch.GetElapsedTime(began)}");
        await Eventually.TrueAsync(() => !connections.IsStateLeftAlone);
    }

    [Fact]
    public async Task After_a_restart_it_is_used_again()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis, "00:00:30");
        var user = await api.CreateUserAsync();
        using (var client = await api.LogInAsync(user.Email))
        {
            await redis.KillAsync();
            await Eventually.TrueAsync(async () =>
                (await client.GetAsync($"/users/{user.Id}")).StatusCode is HttpStatusCode.ServiceUnavailable
                && api.Services.GetRequiredService<RedisConnections>().IsStateLeftAlone);
            await redis.StartAgainAsync();

            // The session was only in the memory of the state server.
            await Eventually.TrueAsync(async () =>
                (await client.GetAsync($"/users/{user.Id}")).StatusCode is HttpStatusCode.Unauthorized);
        }

        await Eventually.TrueAsync(async () => (await api.Anonymous.PostAsJsonAsync(
            "/sessions", new { email = user.Email, password = ApiNode.Password })).StatusCode is HttpStatusCode.Created);
    }

    private Task<ApiNode> StartAsync(RedisServer redis, string memoryTtl) => ApiNode.StartAsync(servers, new()
    {
        ["ConnectionStrings:RedisState"] = redis.ConnectionString,
        ["Redis:StateDeadline"] = $"{Deadline}",
        ["Sessions:MemoryTtl"] = memoryTtl,
        ["RateLimits:Enabled"] = "true",
    });

    private static async Task<TimeSpan> TimeAsync(HttpClient client, string path, HttpStatusCode? expected)
    {
        var began = Stopwatch.GetTimestamp();
        using var answer = await client.GetAsync(path);
        Assert.Equal(expected ?? answer.StatusCode, answer.StatusCode);
        return Stopwatch.GetElapsedTime(began);
    }
}
