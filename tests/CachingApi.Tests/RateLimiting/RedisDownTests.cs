using System.Net;
using CachingApi.RateLimiting;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Tests.RateLimiting;

/// <summary>The limits' Redis fails.</summary>
public sealed class RedisDownTests(TestServers servers)
{
    private static readonly Dictionary<string, Policy> Policies = new()
    {
        ["local"] = new(Limit: 3),
        ["open"] = new(Limit: 3, OnStoreFailure: "open"),
        ["closed"] = new(Limit: 3, OnStoreFailure: "closed"),
    };

    private static readonly Dictionary<string, string[]> Routes = new()
    {
        ["/local"] = ["local"],
        ["/open"] = ["open"],
        ["/closed"] = ["closed"],
        ["/mixed"] = ["local", "closed"],
    };

    [Theory]
    [InlineData("killed")]
    [InlineData("frozen")]
    public async Task Each_policy_applies_its_rule_and_redis_decides_again_when_it_is_back(string fault)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var app = await StartAsync(redis.ConnectionString);
        Assert.Equal("200", await app.StatusesAsync("/closed", 1));

        await (fault == "killed" ? redis.KillAsync() : redis.PauseAsync());

        Assert.Equal("200 200 200 429 429", await app.StatusesAsync("/local", 5, "203.0.113.1"));
        Assert.Equal("200 200 200 200 200", await app.StatusesAsync("/open", 5));
        var closed = await app.GetAsync("/closed");
        await UserContractTests.AssertProblemAsync(closed, HttpStatusCode.ServiceUnavailable);
        Assert.Equal("1", closed.Headers.GetValues("Retry-After").Single());
        Assert.Equal("closed", Assert.Single(closed.List("RateLimit-Policy")).Name);
        // A request that one policy refuses spends no permits of another. This process counts them here.
        Assert.Equal("503 503 503 503 503", await app.StatusesAsync("/mixed", 5, "203.0.113.2"));
        Assert.Equal("200 200 200 429", await app.StatusesAsync("/local", 4, "203.0.113.2"));
        Assert.Equal(2, (await app.GetAsync("/local", "203.0.113.3")).List("RateLimit").Single().Parameters["r"]);

        await (fault == "killed" ? redis.StartAgainAsync() : redis.ResumeAsync());

        await Eventually.TrueAsync(async () => (await app.GetAsync("/closed", "203.0.113.4")).StatusCode is HttpStatusCode.OK);
        // This client is new to the process, so Redis counts.
        await app.GetAsync("/local", "203.0.113.5");
        Assert.Contains(await app.KeysAsync(), key => $"{key}".Contains("{ip:203.0.113.5}:local", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_frozen_redis_is_asked_once_in_a_moment_and_holds_no_other_request()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var redis = await RedisServer.StartAsync();
        await using var app = await StartAsync($"{redis.ConnectionString},allowAdmin=true", time);
        await app.GetAsync("/open");
        var before = await RateLimitTests.CallsAsync(app);
        await redis.PauseAsync();

        await app.StatusesAsync("/open", 200);
        time.Advance(TimeSpan.FromSeconds(1));
        await app.StatusesAsync("/open", 200);

        // The unanswered requests are still in the server's sockets.
        await redis.ResumeAsync();
        Assert.InRange(await RateLimitTests.CallsAsync(app), before, before + 2);

        await Eventually.TrueAsync(async () =>
        {
            time.Advance(TimeSpan.FromSeconds(1));
            await app.GetAsync("/open");
            return await RateLimitTests.CallsAsync(app) > before + 2;
        });
    }

    [Fact]
    public async Task A_slow_redis_in_the_middle_of_a_window_grants_no_extra_permits()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var app = await StartAsync(proxy.ConnectionString);
        Assert.Equal("200 200", await app.StatusesAsync("/local", 2));
        Assert.Equal("200 200 200 429", await app.StatusesAsync("/local", 4, "203.0.113.1"));

        // Redis is slower than the deadline, several times: there are three permits, with and without it.
        for (var round = 0; round < 3; round++)
        {
            proxy.Delay = TimeSpan.FromSeconds(1);
            Assert.Equal(round == 0 ? "200 429" : "429 429", await app.StatusesAsync("/local", 2));
            Assert.Equal("429", await app.StatusesAsync("/local", 1, "203.0.113.1"));
            proxy.Delay = TimeSpan.Zero;
            await Eventually.TrueAsync(
                async () => (await app.GetAsync("/closed", $"203.0.113.{10 + round}")).StatusCode is HttpStatusCode.OK);
        }
    }

    [Fact]
    public async Task A_denied_client_stays_denied_while_redis_is_unavailable()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var redis = await RedisServer.StartAsync();
        await using var app = await StartAsync(redis.ConnectionString);
        await using var other = await LimitedApp.StartAsync(redis.ConnectionString, Policies, Routes, app.KeyPrefix, time, "00:00:00.300");
        Assert.Equal("200 200 200", await app.StatusesAsync("/local", 3));
        Assert.Equal("429", await other.StatusesAsync("/local", 1));

        await redis.KillAsync();

        Assert.Equal("429 429", await other.StatusesAsync("/local", 2));
        time.Advance(TimeSpan.FromHours(1));
        Assert.Equal("200 200 200 429", await other.StatusesAsync("/local", 4));
    }

    [Fact]
    public async Task A_flood_of_new_clients_needs_bounded_memory_and_a_known_client_stays_known()
    {
        await using var app = await StartAsync(servers.Redis);
        var local = app.Services.GetRequiredService<LocalLimits>();
        var policy = app.Services.GetRequiredService<RateLimitPolicies>().Find("local")!;
        PermitRequest Client(int number) => new(policy, policy.Key("test", $"ip:{number}"), 1);

        for (var client = 1; client < 5 * LocalLimits.Capacity; client++)
        {
            local.Acquire(Client(client));
            if (client % 100 == 0)
            {
                local.Acquire(Client(0));
            }
        }

        await Eventually.TrueAsync(() => local.Count <= LocalLimits.Capacity);
        Assert.False(local.Acquire(Client(0)).Granted);
    }

    private static Task<LimitedApp> StartAsync(string redis, TimeProvider? time = null) =>
        LimitedApp.StartAsync(redis, Policies, Routes, time: time, deadline: "00:00:00.300");
}
