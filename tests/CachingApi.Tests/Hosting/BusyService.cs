using System.Net;
using System.Net.Http.Json;
using CachingApi.Caching;
using CachingApi.Caching.Tests;
using CachingApi.FakeUpstream;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Caching;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Weather;

namespace CachingApi.Tests.Hosting;

/// <summary>A service with its own two Redis servers and upstream, and operations that cause a sample of each of its metrics.</summary>
internal sealed class BusyService : IAsyncDisposable
{
    private readonly RedisServer _state;
    private readonly FakeOpenMeteo _upstream;
    private int _round;

    private BusyService(RedisServer cache, RedisServer state, FakeOpenMeteo upstream, ApiNode api) =>
        (Cache, _state, _upstream, Api) = (cache, state, upstream, api);

    public ApiNode Api { get; }

    public RedisServer Cache { get; }

    public static async Task<BusyService> StartAsync(TestServers servers)
    {
        var (cache, state) = (
            await RedisServer.StartAsync("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu"), await RedisServer.StartAsync());
        var upstream = await FakeOpenMeteo.StartAsync(TimeProvider.System, "--urls", "http://127.0.0.1:0");
        var api = await ApiNode.StartAsync(servers, WeatherNode.Settings(upstream, new()
        {
            ["ConnectionStrings:Redis"] = cache.ConnectionString,
            ["ConnectionStrings:RedisState"] = state.ConnectionString,
            ["Database:ChangeCapture"] = "true",
            ["Cache:Users:MemoryTtl"] = "00:01:00",
            ["Cache:Verify"] = "100",
            ["WriteBehind:Capacity"] = "5",
            ["WriteBehind:MaxAttempts"] = "2",
            ["RateLimits:Enabled"] = "true",
            ["RateLimits:Policies:default:Limit"] = "100000",
            ["RateLimits:Policies:login:Limit"] = "100000",
            ["RateLimits:Policies:login-account:Limit"] = "100000",
            ["RateLimits:Policies:login-network:Limit"] = "100000",
            ["RateLimits:Policies:registration:Limit"] = "100000",
            ["RateLimits:Policies:registration-network:Limit"] = "100000",
        }));
        await MemoryTierTests.TrustedAsync(api);
        await Eventually.TrueAsync(async () => await api.MetricAsync("change_capture_follows") == 1, "change capture");
        return new(cache, state, upstream, api);
    }

    /// <summary>Repeats all operations.</summary>
    public async Task WorkAsync()
    {
        _round++;
        await ReadThingsAsync();
        await LoadTogetherAsync();
        await LoseARaceAsync();
        await UseUsersAsync();
        await WriteBehindAsync();
        foreach (var city in new[] { City.All[_round % City.All.Count].Names[0], Id("Nowhere") })
        {
            await Api.Anonymous.GetAsync($"/weather/{city}");
        }

        await Eventually.TrueAsync(async () =>
        {
            for (var request = 0; request < 12; request++)
            {
                await Api.Anonymous.GetAsync("/limits/demo-token-bucket");
            }

            return await Api.MetricAsync("rate_limit_decisions_total", ("outcome", "denied_local")) > 0;
        });
    }

    /// <summary>Performs the operations that are possible while neither Redis server answers.</summary>
    public async Task WorkWithoutRedisAsync()
    {
        await Cache.PauseAsync();
        await _state.PauseAsync();
        var engine = Things(TimeSpan.Zero);
        await Eventually.TrueAsync(async () =>
        {
            await engine.GetAsync(new Thing("it", 1), $"{Guid.NewGuid()}");
            return await Api.MetricAsync("cache_circuit_open") == 1;
        });
        await Eventually.TrueAsync(async () =>
        {
            await Api.Anonymous.GetAsync("/limits/demo-sliding-window");
            return await Api.MetricAsync("rate_limit_decisions_total", ("outcome", "fallback")) > 0;
        });
    }

    public async ValueTask DisposeAsync()
    {
        await Cache.ResumeAsync();
        await _state.ResumeAsync();
        await Api.DisposeAsync();
        await _upstream.DisposeAsync();
        await Cache.DisposeAsync();
        await _state.DisposeAsync();
    }

    private Engine Things(TimeSpan memory) => new(
        Api.Services, new() { MemoryTtl = memory, MemoryEntries = 50, StaleFor = TimeSpan.FromMinutes(10), EarlyRefresh = false });

    private string Id(string what) => $"{what}-{_round}";

    /// <summary>Causes every result of each tier.</summary>
    private async Task ReadThingsAsync()
    {
        var (memory, redis) = (Things(TimeSpan.FromMinutes(1)), Things(TimeSpan.Zero));
        for (var read = 0; read < 300; read++)
        {
            await memory.GetAsync(new Thing("it", 1), Id("there"));
            await memory.GetAsync((Thing?)null, Id("not there"));
        }

        await redis.GetAsync(new Thing("it", 1), Id("there"));
        await redis.GetAsync((Thing?)null, Id("not there"));

        for (var other = 0; other < 100; other++)
        {
            await memory.GetAsync(new Thing("it", 1), Id($"{other}"));
        }

        await redis.Invalidation.ClearAsync(redis.Cache.Name, cause: null, CancellationToken.None);

        static Task<Thing?> Fail(CancellationToken stop) => throw new InvalidOperationException("The source fails.");
        await Assert.ThrowsAsync<InvalidOperationException>(() => redis.GetAsync(Fail, Id("failing")));
        var brief = new Engine(
            Api.Services,
            new()
            {
                MemoryTtl = TimeSpan.Zero,
                Ttl = TimeSpan.FromMilliseconds(1),
                StaleFor = TimeSpan.FromMinutes(10),
                EarlyRefresh = false,
            });
        await brief.GetAsync(new Thing("it", 1), Id("stale"));
        await Eventually.TrueAsync(async () => (await brief.GetAsync(Fail, Id("stale"))).Outcome is CacheOutcome.StaleIfError);
    }

    private async Task LoadTogetherAsync()
    {
        var engine = Things(TimeSpan.Zero);
        var before = await Api.MetricAsync("cache_coalesced_total");
        await Eventually.TrueAsync(async () =>
        {
            var id = $"{Guid.NewGuid()}";
            await Task.WhenAll(Enumerable.Range(0, 10).Select(_ => engine.GetAsync(
                async stop =>
                {
                    await Task.Delay(50, stop);
                    return (Thing?)new Thing("it", 1);
                },
                id)));
            return await Api.MetricAsync("cache_coalesced_total") > before;
        });
    }

    private async Task LoseARaceAsync()
    {
        var engine = Things(TimeSpan.Zero);
        var slow = new SlowLoad(() => new("it", 2));
        var reader = engine.GetAsync(slow.RunAsync, Id("raced"));
        await slow.HasRead;
        await engine.Invalidation.InvalidateAsync(engine.Key(Id("raced")), new(2), CancellationToken.None);
        slow.GoOn();
        await reader;
    }

    /// <summary>Queues more writes than the queue takes, several of one user at once, and one that cannot be persisted.</summary>
    private async Task WriteBehindAsync()
    {
        var user = await Api.CreateUserAsync();
        using var admin = await Api.AdminAsync();
        Task<HttpResponseMessage> WriteAsync(string name) =>
            admin.PutAsJsonAsync($"/users/{user.Id}?strategy=write-behind", new { email = user.Email, displayName = name });
        await Eventually.TrueAsync(async () =>
        {
            await Task.WhenAll(Enumerable.Range(0, 20).Select(write => WriteAsync($"Name {write}")));
            return await Api.MetricAsync("write_behind_writes_total", ("outcome", "folded")) > 0
                && await Api.MetricAsync("write_behind_fallbacks_total", ("reason", "full")) > 0;
        }, "folded writes and a full queue");
        await Eventually.TrueAsync(async () =>
        {
            await WriteAsync($"{Guid.NewGuid()}");
            return await Api.MetricAsync("write_behind_writes_total", ("outcome", "persisted")) > 0;
        }, "a persisted write");
        var dead = await Api.MetricAsync("write_behind_writes_total", ("outcome", "dead"));
        await Api.SqlAsync(
            "ALTER TABLE users DROP CONSTRAINT IF EXISTS not_this, ADD CONSTRAINT not_this CHECK (display_name <> 'Refused')");
        await Eventually.TrueAsync(async () =>
        {
            await WriteAsync("Refused");
            return await Api.MetricAsync("write_behind_writes_total", ("outcome", "dead")) > dead
                && await Api.MetricAsync("write_behind_dead_letters") > 0;
        }, "a dead letter");
    }

    private async Task UseUsersAsync()
    {
        var user = await Api.CreateUserAsync();
        for (var attempt = 0; attempt < LoginBackoff.FreeFailures + 2; attempt++)
        {
            await Api.Anonymous.PostAsJsonAsync("/sessions", new { email = $"{user.Id}@example.org", password = "not the password" });
        }

        using var client = await Api.LogInAsync(user.Email);
        using var other = await Api.LogInAsync(user.Email);
        await client.GetAsync($"/users/{user.Id}");
        await client.GetAsync($"/users/{user.Id}");
        await client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = "Ada King" });
        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync("/sessions")).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync("/sessions/current")).StatusCode);
    }
}
