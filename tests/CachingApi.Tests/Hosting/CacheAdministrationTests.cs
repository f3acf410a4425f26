using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using CachingApi.Caching;
using CachingApi.Caching.Tests;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Caching;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using CachingApi.Tests.Weather;
using Microsoft.Extensions.Time.Testing;
using StackExchange.Redis;

namespace CachingApi.Tests.Hosting;

/// <summary>Inspection, eviction and warming of the caches by an administrator.</summary>
public sealed class CacheAdministrationTests(TestServers servers)
{
    private static readonly Dictionary<string, string> InMemory = new() { ["Cache:Users:MemoryTtl"] = "00:01:00" };

    [Fact]
    public async Task An_entry_is_shown_as_each_tier_has_it_and_never_its_body()
    {
        var time = new FakeTimeProvider(TimeProvider.System.GetUtcNow());
        await using var api = await ApiNode.StartAsync(
            servers, new(InMemory) { ["Cache:Users:Jitter"] = "0", ["Cache:Users:EarlyRefresh"] = "false" }, time: time);
        await MemoryTierTests.TrustedAsync(api);
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        var path = $"/cache/entries?key=users:{user.Id}";
        async Task<(JsonElement Memory, JsonElement Redis, JsonElement All)> LookAsync()
        {
            var answer = await admin.GetAsync(path);
            Assert.Equal("no-store", answer.Header("Cache-Control"));
            Assert.DoesNotContain(user.Email, await answer.Content.ReadAsStringAsync(), StringComparison.Ordinal);
            var entry = await answer.JsonAsync();
            return (entry.GetProperty("memory"), entry.GetProperty("redis"), entry);
        }

        // The creation of the user has left a tombstone.
        var (memory, redis, all) = await LookAsync();
        Assert.Equal(
            """{"present":false,"state":"absent","ageSeconds":null,"ttlSeconds":null,"usableForSeconds":null"""
            + ""","expiresInSeconds":null,"version":null,"sizeBytes":null}""",
            memory.GetRawText());
        Assert.Equal(("tombstone", 1, CacheEntry.HeaderSize),
            (redis.GetProperty("state").GetString(), redis.GetProperty("version").GetInt32(), redis.GetProperty("sizeBytes").GetInt32()));
        Assert.InRange(redis.GetProperty("expiresInSeconds").GetDouble(), 1, 30);
        Assert.Matches($"^{api.KeyPrefix}:users:g[0-9]+:{user.Id}$", all.GetProperty("redisKey").GetString());

        var body = await (await admin.GetAsync($"/users/{user.Id}")).Content.ReadAsByteArrayAsync();
        time.Advance(TimeSpan.FromSeconds(5));
        await Eventually.TrueAsync(async () => (await LookAsync()).Memory.GetProperty("state").GetString() == "fresh");
        (memory, redis, all) = await LookAsync();
        foreach (var tier in new[] { memory, redis })
        {
            Assert.Equal("fresh", tier.GetProperty("state").GetString());
            AssertAbout(5, tier, "ageSeconds");
            Assert.Equal(1, tier.GetProperty("version").GetInt32());
            Assert.Equal(CacheEntry.HeaderSize + body.Length, tier.GetProperty("sizeBytes").GetInt32());
        }

        AssertAbout(55, memory, "ttlSeconds");
        AssertAbout(55, memory, "usableForSeconds");
        AssertAbout(595, redis, "ttlSeconds");
        AssertAbout(4195, redis, "usableForSeconds");
        Assert.False(all.GetProperty("leaseHeld").GetBoolean());

        time.Advance(TimeSpan.FromMinutes(11));
        (memory, redis, _) = await LookAsync();
        Assert.Equal(("stale", 0), (memory.GetProperty("state").GetString(), memory.GetProperty("usableForSeconds").GetDouble()));
        Assert.Equal(("stale", 0), (redis.GetProperty("state").GetString(), redis.GetProperty("ttlSeconds").GetDouble()));
        AssertAbout(3535, redis, "usableForSeconds");

        var key = all.GetProperty("redisKey").GetString()!;
        await using var connection = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        await connection.GetDatabase().StringSetAsync($"{{{key}}}:lease", TestCache.HeldLease, TimeSpan.FromSeconds(30));
        path = $"/cache/entries?key={Uri.EscapeDataString(key)}";
        (_, redis, all) = await LookAsync();
        Assert.Equal("stale", redis.GetProperty("state").GetString());
        Assert.True(all.GetProperty("leaseHeld").GetBoolean());
    }

    [Fact]
    public async Task A_negative_entry_is_shown_too()
    {
        var api = await servers.SharedApiAsync();
        using var admin = await api.AdminAsync();
        var id = Guid.CreateVersion7(TimeProvider.System.GetUtcNow());
        async Task<string?> StateAsync() =>
            (await (await admin.GetAsync($"/cache/entries?key=users:{id}")).JsonAsync()).GetProperty("redis")
                .GetProperty("state")
                .GetString();

        Assert.Equal("absent", await StateAsync());
        await admin.GetAsync($"/users/{id}");
        Assert.Equal("negative", await StateAsync());
    }

    [Fact]
    public async Task An_evicted_entry_is_a_miss_on_every_node()
    {
        await using var api = await ApiNode.StartAsync(servers, InMemory);
        await using var other = await ApiNode.StartAsync(servers, InMemory, nodeOf: api);
        var user = await api.CreateUserAsync();
        using var here = await api.AdminAsync();
        using var there = await other.AdminAsync();
        foreach (var client in new[] { here, there })
        {
            await Eventually.TrueAsync(
                async () => (await client.GetAsync($"/users/{user.Id}")).CacheStatus().Contains("detail=memory", StringComparison.Ordinal));
        }

        var evicted = await here.DeleteAsync($"/cache/entries?key=users:{user.Id}");

        Assert.Equal(HttpStatusCode.NoContent, evicted.StatusCode);
        Assert.Equal("no-store", evicted.Header("Cache-Control"));
        await Eventually.TrueAsync(async () =>
            (await (await there.GetAsync($"/cache/entries?key=users:{user.Id}")).JsonAsync()).GetProperty("memory")
                .GetProperty("state")
                .GetString() == "absent");
        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await here.GetAsync($"/users/{user.Id}")).CacheStatus());
        Assert.Equal("\"v1\"", (await there.GetAsync($"/users/{user.Id}")).ETag().Tag);
    }

    [Fact]
    public async Task A_write_that_is_acknowledged_and_not_persisted_yet_is_seen_after_its_entry_was_evicted()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        await admin.GetAsync($"/users/{user.Id}");
        await using var database = new Npgsql.NpgsqlConnection(api.Database);
        await database.OpenAsync();
        await using var locking = await database.BeginTransactionAsync();
        await new Npgsql.NpgsqlCommand("LOCK TABLE users IN EXCLUSIVE MODE", database, locking).ExecuteNonQueryAsync();

        var written = await admin.PutAsJsonAsync(
            $"/users/{user.Id}?strategy=write-behind", new { email = user.Email, displayName = "Countess" });
        await admin.DeleteAsync($"/cache/entries?key=users:{user.Id}");
        var read = await admin.GetAsync($"/users/{user.Id}");

        Assert.Equal(HttpStatusCode.Accepted, written.StatusCode);
        Assert.Equal(("CachingApi; fwd=uri-miss; stored", "\"v2\""), (read.CacheStatus(), read.ETag().Tag));
        await Eventually.TrueAsync(async () =>
            (await (await admin.GetAsync("/cache/stats")).JsonAsync()).GetProperty("writeBehind")
                .GetProperty("queueLength")
                .GetInt32() == 1);
        await locking.RollbackAsync();
    }

    [Fact]
    public async Task A_dropped_cache_is_empty_and_the_others_are_not()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        await admin.GetAsync($"/users/{user.Id}");
        await admin.GetAsync("/users");

        Assert.Equal(HttpStatusCode.NoContent, (await admin.DeleteAsync("/cache/namespaces/users")).StatusCode);

        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await admin.GetAsync($"/users/{user.Id}")).CacheStatus());
        Assert.StartsWith("CachingApi; hit", (await admin.GetAsync("/users")).CacheStatus());
    }

    [Theory]
    [InlineData("GET", "/cache/entries", HttpStatusCode.BadRequest)]
    [InlineData("GET", "/cache/entries?key=users", HttpStatusCode.BadRequest)]
    [InlineData("GET", "/cache/entries?key=users:", HttpStatusCode.BadRequest)]
    [InlineData("GET", "/cache/entries?key={prefix}:users:1", HttpStatusCode.BadRequest)]
    [InlineData("GET", "/cache/entries?key=sessions:1", HttpStatusCode.NotFound)]
    [InlineData("DELETE", "/cache/entries?key=users", HttpStatusCode.BadRequest)]
    [InlineData("DELETE", "/cache/entries?key=sessions:1", HttpStatusCode.NotFound)]
    [InlineData("DELETE", "/cache/namespaces/sessions", HttpStatusCode.NotFound)]
    [InlineData("GET", "/cache/warm/latest", HttpStatusCode.BadRequest)]
    [InlineData("GET", "/cache/warm/01980c6e-8f00-7a10-8c3e-2f3a1b4c5d6e", HttpStatusCode.NotFound)]
    public async Task Unknown_caches_and_invalid_keys_are_errors(string method, string path, HttpStatusCode expected)
    {
        var api = await servers.SharedApiAsync();
        using var admin = await api.AdminAsync();
        var answer = await admin.SendAsync(new(new(method), path.Replace("{prefix}", api.KeyPrefix, StringComparison.Ordinal)));
        await UserContractTests.AssertProblemAsync(answer, expected);
        Assert.Equal("no-store", answer.Header("Cache-Control"));
    }

    [Theory]
    [InlineData("""{"top":1}""", "cache")]
    [InlineData("""{"cache":"sessions","top":1}""", "cache")]
    [InlineData("""{"cache":"users"}""", "keys")]
    [InlineData("""{"cache":"users","top":1,"keys":["01980c6e-8f00-7a10-8c3e-2f3a1b4c5d6e"]}""", "keys")]
    [InlineData("""{"cache":"users","keys":[]}""", "keys")]
    [InlineData("""{"cache":"users","keys":[null]}""", "keys")]
    [InlineData("""{"cache":"users","keys":["ada"]}""", "keys")]
    [InlineData("""{"cache":"user-lists","keys":["101:"]}""", "keys")]
    [InlineData("""{"cache":"weather","keys":["a/b"]}""", "keys")]
    [InlineData("""{"cache":"users","top":0}""", "top")]
    [InlineData("""{"cache":"users","top":10001}""", "top")]
    [InlineData("""{"cache":"users","top":"all"}""", "top")]
    public async Task An_invalid_job_is_refused(string body, string field)
    {
        var api = await servers.SharedApiAsync();
        using var admin = await api.AdminAsync();
        var answer = await admin.PostAsync(
            "/cache/warm", new StringContent(body, new System.Net.Http.Headers.MediaTypeHeaderValue("application/json")));
        Assert.Equal(HttpStatusCode.BadRequest, answer.StatusCode);
        Assert.True(
            (await answer.JsonAsync()).GetProperty("errors").TryGetProperty(field, out _), await answer.Content.ReadAsStringAsync());
    }

    [Fact]
    public async Task A_job_may_name_ten_thousand_keys_and_no_more()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        string[] Keys(int count) => [.. Enumerable.Range(0, count).Select(_ => Guid.NewGuid().ToString())];

        Assert.Equal(
            HttpStatusCode.BadRequest,
            (await admin.PostAsJsonAsync("/cache/warm", new { cache = "users", keys = Keys(10_001) })).StatusCode);
        var begun = await admin.PostAsJsonAsync("/cache/warm", new { cache = "users", keys = Keys(10_000) });
        Assert.Equal((HttpStatusCode.Accepted, 10_000), (begun.StatusCode, (await begun.JsonAsync()).GetProperty("total").GetInt32()));

        // Any other route takes 64 KiB.
        using var request = new HttpRequestMessage(HttpMethod.Post, "/cache/warm")
        {
            Content = new StringContent(
                new string(' ', 1024 * 1024 + 1), new System.Net.Http.Headers.MediaTypeHeaderValue("application/json")),
        };
        request.Headers.ExpectContinue = true; // the service answers before it has read the body, and closes the connection
        var tooLarge = await admin.SendAsync(request);
        Assert.Equal(HttpStatusCode.RequestEntityTooLarge, tooLarge.StatusCode);
        Assert.Contains("1048576", (await tooLarge.JsonAsync()).GetProperty("detail").GetString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Users_that_were_warmed_by_a_job_are_hits_and_every_node_reports_its_progress(bool byKeys)
    {
        await using var api = await ApiNode.StartAsync(servers);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: api);
        var users = new[] { await api.CreateUserAsync(), await api.CreateUserAsync(), await api.CreateUserAsync() };
        using var admin = await api.AdminAsync();
        using var there = await other.AdminAsync();

        object what = byKeys
            ? new { cache = "users", keys = new[] { users[1].Id, users[2].Id, users[2].Id } }
            : new { cache = "users", top = 2 };
        var begun = await admin.PostAsJsonAsync("/cache/warm", what);

        Assert.Equal(HttpStatusCode.Accepted, begun.StatusCode);
        var job = await begun.JsonAsync();
        Assert.Equal($"/cache/warm/{job.GetProperty("id").GetString()}", begun.Headers.Location!.OriginalString);
        await Eventually.TrueAsync(
            async () => (await (await there.GetAsync(begun.Headers.Location)).JsonAsync()).GetProperty("state").GetString() == "finished");
        var status = await (await there.GetAsync(begun.Headers.Location)).JsonAsync();
        Assert.Equal(
            (2, 2, 2, 0),
            (status.GetProperty("total").GetInt32(), status.GetProperty("done").GetInt32(), status.GetProperty("kept").GetInt32(),
                status.GetProperty("failed").GetInt32()));
        Assert.True(status.GetProperty("finishedAt").GetDateTimeOffset() >= status.GetProperty("startedAt").GetDateTimeOffset());
        Assert.Equal(2, await api.MetricAsync("cache_loads_total", ("cache", "users"), ("outcome", "loaded")));
        Assert.StartsWith("CachingApi; hit", (await admin.GetAsync($"/users/{users[1].Id}")).CacheStatus());
        Assert.StartsWith("CachingApi; hit", (await admin.GetAsync($"/users/{users[2].Id}")).CacheStatus());
        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await admin.GetAsync($"/users/{users[0].Id}")).CacheStatus());
    }

    [Fact]
    public async Task A_job_while_redis_is_away_says_that_nothing_was_kept()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = servers.Redis,
            ["Cache:RedisDeadline"] = "00:00:00.300",
        });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        await redis.PauseAsync();

        var begun = await admin.PostAsJsonAsync("/cache/warm", new { cache = "users", keys = new[] { user.Id } });
        JsonElement status = default;
        await Eventually.TrueAsync(async () =>
        {
            status = await (await admin.GetAsync(begun.Headers.Location)).JsonAsync();
            return status.GetProperty("state").GetString() == "finished";
        });

        Assert.Equal(
            (1, 0, 0),
            (status.GetProperty("done").GetInt32(), status.GetProperty("kept").GetInt32(), status.GetProperty("failed").GetInt32()));
        await redis.ResumeAsync();
    }

    [Fact]
    public async Task The_first_pages_are_those_that_a_reader_would_turn()
    {
        await using var api = await ApiNode.StartAsync(servers);
        await api.SqlAsync(
            "INSERT INTO users (id, email, email_key, display_name, password_hash, created_at, updated_at) "
            + "SELECT gen_random_uuid(), n || '@example.org', n || '@example.org', 'Ada', '', now(), now() FROM generate_series(1, 70) n");
        using var admin = await api.AdminAsync();

        var begun = await admin.PostAsJsonAsync("/cache/warm", new { cache = "user-lists", top = 3 });
        await Eventually.TrueAsync(
            async () => (await (await admin.GetAsync(begun.Headers.Location)).JsonAsync()).GetProperty("state").GetString() == "finished");

        var next = "";
        for (var page = 1; page <= 4; page++)
        {
            var answer = await admin.GetAsync($"/users{next}");
            Assert.StartsWith(page <= 3 ? "CachingApi; hit" : "CachingApi; fwd=uri-miss", answer.CacheStatus());
            next = $"?after={(await answer.JsonAsync()).GetProperty("next").GetString()}";
        }
    }

    [Fact]
    public async Task One_job_at_a_time_warms_a_cache_on_whatever_node_and_four_loads_at_a_time()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Cache:LoadTimeout"] = "00:00:20" });
        await using var other = await ApiNode.StartAsync(servers, nodeOf: api);
        var users = await api.CreateUsersAsync(8);
        using var admin = await api.AdminAsync();
        using var there = await other.AdminAsync();

        // Every read of a user waits for this lock.
        await using var database = new Npgsql.NpgsqlConnection(api.Database);
        await database.OpenAsync();
        var locking = await database.BeginTransactionAsync();
        await new Npgsql.NpgsqlCommand("LOCK TABLE users", database, locking).ExecuteNonQueryAsync();
        var keys = new { cache = "users", keys = users.Select(user => user.Id) };
        var begun = await admin.PostAsJsonAsync("/cache/warm", keys);
        await Eventually.TrueAsync(async () => await WaitingAsync() == 4);
        var second = await there.PostAsJsonAsync("/cache/warm", keys);
        var another = await there.PostAsJsonAsync("/cache/warm", new { cache = "geocoding", top = 1 });

        await UserContractTests.AssertProblemAsync(second, HttpStatusCode.Conflict);
        Assert.Contains(
            begun.Headers.Location!.OriginalString, (await second.JsonAsync()).GetProperty("detail").GetString(), StringComparison.Ordinal);
        Assert.Equal(HttpStatusCode.Accepted, another.StatusCode);
        Assert.Equal("running", (await (await there.GetAsync(begun.Headers.Location)).JsonAsync()).GetProperty("state").GetString());
        Assert.Equal(4, await WaitingAsync());

        await locking.RollbackAsync();
        await Eventually.TrueAsync(
            async () => (await (await there.GetAsync(begun.Headers.Location)).JsonAsync()).GetProperty("done").GetInt32() == 8);
        await Eventually.TrueAsync(async () => (await there.PostAsJsonAsync("/cache/warm", keys)).StatusCode is HttpStatusCode.Accepted);

        Task<long> WaitingAsync() => api.SqlAsync<long>(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            + "AND query LIKE '%WHERE id =%' AND pid <> pg_backend_pid()");
    }

    [Fact]
    public async Task A_job_whose_source_is_away_ends_early_and_counts_its_failures()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        await api.SqlAsync("ALTER TABLE users RENAME TO gone");

        var begun = await admin.PostAsJsonAsync(
            "/cache/warm", new { cache = "users", keys = Enumerable.Range(0, 1000).Select(_ => Guid.NewGuid()) });

        await Eventually.TrueAsync(
            async () => (await (await admin.GetAsync(begun.Headers.Location)).JsonAsync()).GetProperty("state").GetString() == "finished");
        var status = await (await admin.GetAsync(begun.Headers.Location)).JsonAsync();
        Assert.Equal(0, status.GetProperty("done").GetInt32());
        Assert.InRange(status.GetProperty("failed").GetInt32(), 20, 24);
        await api.SqlAsync("ALTER TABLE gone RENAME TO users");
    }

    [Fact]
    public async Task A_job_whose_process_has_died_is_lost_and_another_may_begin()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var users = await api.CreateUsersAsync(2);
        using var process = await ApiProcess.StartAsync(api.SettingsWith([]));
        await using var database = new Npgsql.NpgsqlConnection(api.Database);
        await database.OpenAsync();
        await using var locking = await database.BeginTransactionAsync();
        await new Npgsql.NpgsqlCommand("LOCK TABLE users", database, locking).ExecuteNonQueryAsync();
        var keys = new { cache = "users", keys = users.Select(user => user.Id) };
        process.Client.DefaultRequestHeaders.Authorization = admin.DefaultRequestHeaders.Authorization;
        var begun = await process.Client.PostAsJsonAsync("/cache/warm", keys);
        Assert.Equal(HttpStatusCode.Accepted, begun.StatusCode);

        await process.KillAsync();
        await locking.RollbackAsync();

        await Eventually.TrueAsync(
            async () => (await (await admin.GetAsync(begun.Headers.Location)).JsonAsync()).GetProperty("state").GetString() == "lost");
        Assert.Equal(HttpStatusCode.Accepted, (await admin.PostAsJsonAsync("/cache/warm", keys)).StatusCode);
    }

    [Fact]
    public async Task The_newest_users_are_loaded_at_start_as_configured()
    {
        await using var first = await ApiNode.StartAsync(servers);
        var users = new[] { await first.CreateUserAsync(), await first.CreateUserAsync(), await first.CreateUserAsync() };
        await using var second = await ApiNode.StartAsync(servers, new() { ["Cache:Users:Prewarm"] = "2" }, nodeOf: first);

        await Eventually.TrueAsync(
            async () => await second.MetricAsync("cache_loads_total", ("cache", "users"), ("outcome", "loaded")) == 2);
        using var admin = await second.AdminAsync();
        Assert.StartsWith("CachingApi; hit", (await admin.GetAsync($"/users/{users[2].Id}")).CacheStatus());
        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await admin.GetAsync($"/users/{users[0].Id}")).CacheStatus());
    }

    [Fact]
    public async Task Cities_are_warmed_by_their_names()
    {
        await using var node = await WeatherNode.StartAsync(servers);
        using var admin = await node.Api.AdminAsync();

        var begun = await admin.PostAsJsonAsync("/cache/warm", new { cache = "weather", keys = new[] { "Berlin", "Z\u00fcrich" } });

        await Eventually.TrueAsync(() => node.Upstream.CallsOf(FakeOpenMeteo.Forecast) == 2);
        await Eventually.TrueAsync(
            async () => (await (await admin.GetAsync(begun.Headers.Location)).JsonAsync()).GetProperty("done").GetInt32() == 2);
        Assert.True(CacheStatus.Of(await node.GetAsync("berlin")).Hit);
    }

    /// <summary>Entries have their times in milliseconds.</summary>
    private static void AssertAbout(double expected, JsonElement tier, string field) =>
        Assert.Equal(expected, tier.GetProperty(field).GetDouble(), 0.01);
}
