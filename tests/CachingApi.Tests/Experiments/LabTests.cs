using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using CachingApi.Experiments;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Tests.Experiments;

/// <summary>The experiments of the live page.</summary>
public sealed class LabTests(TestServers servers)
{
    [Theory]
    [InlineData("Production", "false", HttpStatusCode.NotFound, HttpStatusCode.NotFound)]
    [InlineData("Production", "true", HttpStatusCode.OK, HttpStatusCode.NotFound)]
    [InlineData("Development", "false", HttpStatusCode.OK, HttpStatusCode.BadRequest)]
    public async Task Outside_of_development_experiments_must_be_enabled_and_there_are_no_faults(
        string environment, string enabled, HttpStatusCode lab, HttpStatusCode faults)
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["environment"] = environment, ["Lab:Enabled"] = enabled, ["Admin:Password"] = ApiNode.Password });
        using var admin = await api.AdminAsync();

        var answer = await admin.GetAsync("/lab");

        Assert.Equal(lab, answer.StatusCode);
        Assert.Equal(faults, (await admin.PostAsJsonAsync("/lab/faults", new { fault = "none", seconds = 1 })).StatusCode);
        if (lab is HttpStatusCode.OK)
        {
            Assert.Equal(environment is "Development" ? 3 : 0, (await answer.JsonAsync()).GetProperty("faults").GetArrayLength());
        }
    }

    [Fact]
    public async Task Only_administrators_can_use_it()
    {
        var api = await servers.SharedApiAsync();
        using var user = await api.LogInAsync((await api.CreateUserAsync()).Email);
        foreach (var (method, path) in new[]
        {
            (HttpMethod.Get, "/lab"), (HttpMethod.Put, "/lab/load"), (HttpMethod.Delete, "/lab/load"), (HttpMethod.Post, "/lab/stampede"),
            (HttpMethod.Post, "/lab/update"), (HttpMethod.Post, "/lab/faults"), (HttpMethod.Get, "/cache/stats/processes"),
            (HttpMethod.Get, "/cache/stats/history"),
        })
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await api.Anonymous.SendAsync(new(method, path))).StatusCode);
            Assert.Equal(HttpStatusCode.Forbidden, (await user.SendAsync(new(method, path))).StatusCode);
        }
    }

    [Theory]
    [InlineData("PUT", "/lab/load", """{"rate": 2001, "keys": 10}""", "rate")]
    [InlineData("PUT", "/lab/load", """{"keys": 0}""", "keys")]
    [InlineData("POST", "/lab/stampede", """{"callers": 1001}""", "callers")]
    [InlineData("POST", "/lab/update", """{"strategy": "none"}""", "strategy")]
    [InlineData("POST", "/lab/faults", """{"fault": "redis-frozen", "seconds": 16}""", "seconds")]
    [InlineData("POST", "/lab/faults", """{"fault": "fire", "seconds": 1}""", "fault")]
    public async Task A_value_out_of_bounds_is_refused_by_name(string method, string path, string body, string field)
    {
        var api = await servers.SharedApiAsync();
        using var admin = await api.AdminAsync();
        var answer = await admin.SendAsync(
            new(new HttpMethod(method), path) { Content = new StringContent(body, mediaType: new("application/json")) });

        await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.BadRequest);
        Assert.Equal(field, (await answer.JsonAsync()).GetProperty("errors").EnumerateObject().Single().Name);
    }

    [Fact]
    public async Task A_stampede_loads_once()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();

        var result = await (await admin.PostAsJsonAsync("/lab/stampede", new { callers = 300 })).JsonAsync();

        int Number(string name) => result.GetProperty(name).GetInt32();
        Assert.Equal(1, Number("loads"));
        Assert.Equal(300, Number("loads") + Number("shared") + Number("hits") + Number("refused"));
        Assert.Equal(0, Number("refused"));
        Assert.Equal(1, await api.MetricAsync("cache_loads_total", ("cache", "users")));
        Assert.InRange(result.GetProperty("p99").GetDouble(), result.GetProperty("p50").GetDouble(), 60_000);
    }

    [Theory]
    [InlineData("write-through", true, "fresh")]
    [InlineData("invalidate", true, "tombstone")]
    [InlineData("write-behind", false, "fresh")]
    public async Task Each_strategy_changes_the_user_in_its_own_way(string strategy, bool committed, string state)
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        await admin.PostAsJsonAsync("/lab/stampede", new { callers = 1 });

        var result = await (await admin.PostAsJsonAsync("/lab/update", new { strategy })).JsonAsync();

        Assert.Equal(committed, result.GetProperty("committed").GetBoolean());
        Assert.Equal(2, result.GetProperty("version").GetInt32());
        var entry = await (await admin.GetAsync($"/cache/entries?key=users:{LabUser.Id}")).JsonAsync();
        Assert.Equal(state, entry.GetProperty("redis").GetProperty("state").GetString());
        await Eventually.TrueAsync(async () => await api.SqlAsync<long>($"SELECT version FROM users WHERE id = '{LabUser.Id}'") == 2);
    }

    [Fact]
    public async Task The_user_may_be_deleted_or_get_another_address()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        async Task<string?> NameAsync() =>
            (await (await admin.GetAsync($"/users/{LabUser.Id}")).JsonAsync()).GetProperty("displayName").GetString();
        async Task<HttpStatusCode> UpdateAsync() =>
            (await admin.PostAsJsonAsync("/lab/update", new { strategy = "write-through" })).StatusCode;
        Assert.Equal(HttpStatusCode.OK, await UpdateAsync());
        await admin.PutAsJsonAsync($"/users/{LabUser.Id}", new { email = "other@example.org", displayName = "Other" });
        Assert.Equal("Other", await NameAsync());

        Assert.Equal(HttpStatusCode.OK, await UpdateAsync());
        Assert.StartsWith("Lab ", await NameAsync(), StringComparison.Ordinal);

        Assert.Equal(HttpStatusCode.NoContent, (await admin.DeleteAsync($"/users/{LabUser.Id}")).StatusCode);
        Assert.Equal(HttpStatusCode.OK, await UpdateAsync());
        Assert.StartsWith("Lab ", await NameAsync(), StringComparison.Ordinal);
        var answers = await Task.WhenAll(Enumerable.Range(0, 10).Select(_ => UpdateAsync()));
        Assert.All(answers, answer => Assert.Equal(HttpStatusCode.OK, answer));
    }

    [Fact]
    public async Task A_change_that_is_written_behind_does_not_wait_for_a_locked_table()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        await admin.PostAsJsonAsync("/lab/stampede", new { callers = 1 });
        await CauseAsync(admin, "database-locked", 3);
        await LockedAsync(api);

        var result = await (await admin.PostAsJsonAsync("/lab/update", new { strategy = "write-behind" })).JsonAsync();

        Assert.False(result.GetProperty("committed").GetBoolean());
        var lab = await (await admin.GetAsync("/lab")).JsonAsync();
        Assert.Equal("database-locked", lab.GetProperty("fault").GetProperty("fault").GetString());
        await EndedAsync(admin);
        await Eventually.TrueAsync(async () => await api.SqlAsync<long>($"SELECT version FROM users WHERE id = '{LabUser.Id}'") == 2);
    }

    [Fact]
    public async Task The_load_reads_at_its_rate_and_ends_when_it_is_not_renewed()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var api = await ApiNode.StartAsync(servers, time: time);
        await api.CreateUsersAsync(3);
        using var admin = await api.AdminAsync();
        await admin.PutAsJsonAsync("/lab/load", new { rate = 100, keys = 2 });

        for (var second = 0; second < 9; second++)
        {
            await ReadsAsync(second * 100);
            time.Advance(TimeSpan.FromSeconds(1));
        }

        await ReadsAsync(900);
        Assert.InRange(await api.MetricAsync("cache_requests_total", ("cache", "users"), ("tier", "redis")), 500, 900);
        Assert.Equal(2, await api.MetricAsync("cache_loads_total", ("cache", "users")));
        await admin.PutAsJsonAsync("/lab/load", new { rate = 100, keys = 2 });
        time.Advance(TimeSpan.FromSeconds(9));
        Assert.NotEqual(JsonValueKind.Null, (await LoadAsync()).ValueKind);
        time.Advance(TimeSpan.FromSeconds(2));
        await Eventually.TrueAsync(async () => (await LoadAsync()).ValueKind is JsonValueKind.Null);

        async Task ReadsAsync(long count) => await Eventually.TrueAsync(async () =>
            await LoadAsync() is var load && load.GetProperty("reads").GetInt64() + load.GetProperty("leftOut").GetInt64() >= count - 1);
        async Task<JsonElement> LoadAsync() => (await (await admin.GetAsync("/lab")).JsonAsync()).GetProperty("load");
    }

    [Fact]
    public async Task The_load_can_be_stopped_and_started_again()
    {
        await using var api = await ApiNode.StartAsync(servers);
        await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        async Task<JsonElement> LoadAsync() => (await (await admin.GetAsync("/lab")).JsonAsync()).GetProperty("load");
        for (var time = 0; time < 2; time++)
        {
            await admin.PutAsJsonAsync("/lab/load", new { rate = 200, keys = 1000 });
            await Eventually.TrueAsync(async () => (await LoadAsync()).GetProperty("reads").GetInt64() > 5);
            Assert.Equal(HttpStatusCode.NoContent, (await admin.DeleteAsync("/lab/load")).StatusCode);
            await Eventually.TrueAsync(async () => (await LoadAsync()).ValueKind is JsonValueKind.Null);
        }
    }

    [Fact]
    public async Task A_frozen_redis_answers_again_after_the_time()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var state = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = state.ConnectionString,
            ["Cache:RedisDeadline"] = "00:00:00.200",
        });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        await CauseAsync(admin, "redis-frozen", 3);

        async Task<string> StatusAsync() => (await admin.GetAsync($"/users/{user.Id}")).Header("Cache-Status");
        await Eventually.TrueAsync(async () => (await StatusAsync()).Contains("redis-unavailable", StringComparison.Ordinal));

        await Eventually.TrueAsync(async () => (await StatusAsync()).Contains("hit; ttl", StringComparison.Ordinal));
        await EndedAsync(admin);
    }

    [Fact]
    public async Task While_the_backplane_is_cut_memory_is_not_used()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var state = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = state.ConnectionString,
            ["Cache:Users:MemoryTtl"] = "00:05:00",
        });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        async Task<bool> IsMemoryHitAsync() =>
            (await admin.GetAsync($"/users/{user.Id}")).Header("Cache-Status").EndsWith("detail=memory", StringComparison.Ordinal);
        await Eventually.TrueAsync(IsMemoryHitAsync);

        await CauseAsync(admin, "backplane-cut", 4);

        await Eventually.TrueAsync(async () => !await IsMemoryHitAsync());
        await EndedAsync(admin);
        await Eventually.TrueAsync(IsMemoryHitAsync);
    }

    [Fact]
    public async Task A_locked_table_delays_loads_for_the_time()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        await CauseAsync(admin, "database-locked", 2);
        await LockedAsync(api);
        var begun = Stopwatch.GetTimestamp();

        var answer = await admin.GetAsync($"/users/{user.Id}");

        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        Assert.InRange(Stopwatch.GetElapsedTime(begun).TotalSeconds, 0.5, 60);
        await EndedAsync(admin);
    }

    [Fact]
    public async Task There_is_one_fault_at_a_time()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:Redis"] = redis.ConnectionString });
        using var admin = await api.AdminAsync();
        await CauseAsync(admin, "database-locked", 2);

        var second = await admin.PostAsJsonAsync("/lab/faults", new { fault = "backplane-cut", seconds = 1 });

        await UserContractTests.AssertProblemAsync(second, HttpStatusCode.Conflict);
        await EndedAsync(admin);
        await CauseAsync(admin, "backplane-cut", 1);
        await EndedAsync(admin);
    }

    private static async Task CauseAsync(HttpClient admin, string fault, int seconds)
    {
        var answer = await admin.PostAsJsonAsync("/lab/faults", new { fault, seconds });
        Assert.Equal(HttpStatusCode.Accepted, answer.StatusCode);
        Assert.Equal(fault, (await answer.JsonAsync()).GetProperty("fault").GetProperty("fault").GetString());
    }

    private static Task LockedAsync(ApiNode api) => Eventually.TrueAsync(async () => await api.SqlAsync<long>(
        "SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND mode = 'AccessExclusiveLock' AND granted") == 1);

    private static Task EndedAsync(HttpClient admin) => Eventually.TrueAsync(
        async () => (await (await admin.GetAsync("/lab")).JsonAsync()).GetProperty("fault").ValueKind is JsonValueKind.Null);
}
