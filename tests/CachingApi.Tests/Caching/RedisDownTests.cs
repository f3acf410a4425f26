using System.Net;
using System.Net.Http.Json;
using CachingApi.Caching;
using CachingApi.Storage;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Caching;

/// <summary>The cache's Redis fails; sessions are on another one.</summary>
public sealed class RedisDownTests(TestServers servers)
{
    [Theory]
    [InlineData("killed")]
    [InlineData("frozen")]
    public async Task Requests_go_on_while_redis_is_away_and_it_is_used_again_when_it_is_back(string fault)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");

        // The fault strikes in the middle of the requests.
        var statuses = new List<HttpStatusCode>();
        var readers = Enumerable.Range(0, 4).Select(_ => ReadAsync(client, user.Id, 50, statuses)).ToArray();
        await (fault == "killed" ? redis.KillAsync() : redis.PauseAsync());
        await Task.WhenAll(readers);
        Assert.All(statuses, status => Assert.Equal(HttpStatusCode.OK, status));

        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/users?limit=5")).StatusCode);
        Assert.Equal(HttpStatusCode.Created, (await CreateAsync(api)).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await UpdateAsync(client, user, "While it was away")).StatusCode);
        var away = await client.GetAsync($"/users/{user.Id}");
        Assert.Equal("CachingApi; fwd=miss; detail=redis-unavailable", away.CacheStatus());
        Assert.Equal("While it was away", (await away.Content.ReadFromJsonAsync<User>())!.DisplayName);
        await Eventually.TrueAsync(async () => await api.MetricAsync("cache_circuit_open") == 1);
        var ready = await api.Anonymous.GetAsync("/health/ready");
        Assert.Equal(HttpStatusCode.OK, ready.StatusCode);
        Assert.Equal("degraded", (await ready.JsonAsync()).GetProperty("status").GetString());

        await (fault == "killed" ? redis.StartAgainAsync() : redis.ResumeAsync());

        await Eventually.TrueAsync(async () =>
        {
            var answer = await client.GetAsync($"/users/{user.Id}");
            Assert.Equal("While it was away", (await answer.Content.ReadFromJsonAsync<User>())!.DisplayName);
            return answer.CacheStatus().StartsWith("CachingApi; hit", StringComparison.Ordinal);
        });
        Assert.Equal(0, await api.MetricAsync("cache_circuit_open"));
    }

    [Theory]
    [InlineData("killed")]
    [InlineData("frozen")]
    [InlineData("paused")]
    [InlineData("slow")]
    public async Task The_first_reads_wait_and_the_later_ones_leave_redis_alone(string fault)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = proxy.ConnectionString,
            ["ConnectionStrings:RedisState"] = servers.Redis,
            ["Cache:RedisDeadline"] = "00:00:00.300",
        });
        var engine = new Engine(api);
        Task<double> WaitsAsync() => api.MetricAsync("cache_operation_duration_seconds_count");
        await Eventually.TrueAsync(async () => (await engine.GetAsync(new Thing("it", 1))).Outcome is CacheOutcome.RedisHit);
        await using var admin = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");

        var before = await WaitsAsync();
        switch (fault)
        {
            case "killed":
                await redis.KillAsync();
                break;
            case "frozen":
                await redis.PauseAsync();
                break;
            case "paused":
                await admin.GetServers()[0].ExecuteAsync("CLIENT", "PAUSE", "5000", "ALL");
                break;
            case "slow":
                proxy.Delay = TimeSpan.FromMilliseconds(500);
                break;
        }

        // Each wait ends at the deadline: two at most, the generation's and the entry's; none where the connection is known to be gone.
        Assert.Equal(CacheOutcome.Bypass, (await engine.GetAsync(new Thing("it", 1))).Outcome);
        Assert.InRange(await WaitsAsync() - before, 0, 2);

        for (var read = 0; read < 20; read++)
        {
            Assert.Equal(CacheOutcome.Bypass, (await engine.GetAsync(new Thing("it", 1), $"{read}")).Outcome);
        }

        // The circuit opens at the third; after that there is nothing to wait for.
        Assert.InRange(await WaitsAsync() - before, 0, 4);
        Assert.Equal(1, await api.MetricAsync("cache_circuit_open"));

        switch (fault)
        {
            case "killed":
                await redis.StartAgainAsync();
                break;
            case "frozen":
                await redis.ResumeAsync();
                break;
            case "slow":
                proxy.Delay = TimeSpan.Zero;
                break;
        }

        await Eventually.TrueAsync(async () => (await engine.GetAsync(new Thing("it", 1))).Outcome is CacheOutcome.RedisHit);
        Assert.Equal(0, await api.MetricAsync("cache_circuit_open"));
    }

    [Fact]
    public async Task The_source_is_asked_by_so_many_at_once_and_who_finds_the_queue_full_is_told_to_come_back()
    {
        const int AtOnce = 32, Waiting = 256;
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var engine = new Engine(api);
        await redis.KillAsync();
        var gate = new TaskCompletionSource();
        var (loads, most, total) = (0, 0, 0);

        async Task<Thing?> LoadAsync(CancellationToken stop)
        {
            lock (gate)
            {
                (loads, total) = (loads + 1, total + 1);
                most = Math.Max(most, loads);
            }

            await gate.Task.WaitAsync(stop);
            lock (gate)
            {
                loads--;
            }

            return new("it", 1);
        }

        var readers = Enumerable.Range(0, AtOnce + Waiting).Select(reader => engine.GetAsync(LoadAsync, $"{reader}")).ToArray();
        await Eventually.TrueAsync(() => engine.Flights.Count == AtOnce + Waiting && loads == AtOnce);

        await Eventually.TrueAsync(async () =>
            await Record.ExceptionAsync(() => engine.GetAsync(new Thing("it", 1), "one too many")) is UnavailableException);

        gate.SetResult();
        Assert.All(await Task.WhenAll(readers), result => Assert.True(result.Found));
        Assert.Equal(AtOnce, most);
        Assert.InRange(total, AtOnce + Waiting, AtOnce + Waiting + 1);
    }

    [Fact]
    public async Task What_was_deleted_while_redis_was_away_is_gone_when_it_is_back()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        await client.GetAsync("/users");

        await redis.PauseAsync();
        // Once the circuit is open nothing is even sent: what Redis should have heard is made up for, or lost.
        await Eventually.TrueAsync(async () =>
        {
            await client.GetAsync($"/users/{user.Id}");
            return await api.MetricAsync("cache_circuit_open") == 1;
        });
        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync($"/users/{user.Id}")).StatusCode);
        await redis.ResumeAsync();

        await Eventually.TrueAsync(async () =>
        {
            var answer = await client.GetAsync($"/users/{user.Id}");
            Assert.Equal(HttpStatusCode.NotFound, answer.StatusCode);
            var list = await client.GetAsync("/users");
            Assert.DoesNotContain(user.Id.ToString(), await list.Content.ReadAsStringAsync(), StringComparison.Ordinal);
            return answer.CacheStatus().StartsWith("CachingApi; hit", StringComparison.Ordinal)
                && list.CacheStatus().StartsWith("CachingApi; hit", StringComparison.Ordinal);
        });
    }

    [Fact]
    public async Task What_was_shown_while_redis_was_away_is_not_followed_by_what_it_held_before()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var (engine, tier) = (new Engine(api), api.Services.GetRequiredService<RedisTier>());
        await engine.GetAsync(new Thing("old", 1));

        await redis.PauseAsync();
        // Another process, or a hand, has written version 2, and this process shows it.
        await Eventually.TrueAsync(async () =>
        {
            Assert.Equal(2, Engine.Read(await engine.GetAsync(new Thing("new", 2)))!.Version);
            return !tier.IsTrusted;
        });
        await redis.ResumeAsync();

        await Eventually.TrueAsync(async () =>
        {
            var result = await engine.GetAsync(new Thing("new", 2));
            Assert.Equal(2, Engine.Read(result)!.Version);
            return result.Outcome is CacheOutcome.RedisHit;
        });
    }

    [Fact]
    public async Task A_redis_that_is_started_again_from_an_older_snapshot_is_not_believed()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var engine = new Engine(api);
        await engine.GetAsync(new Thing("old", 1));
        await using (var admin = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true"))
        {
            await admin.GetServers()[0].ExecuteAsync("SAVE");
        }

        await engine.PutAsync(engine.Key(), new("new", 2), CancellationToken.None);
        Assert.Equal(2, Engine.Read(await engine.GetAsync(new Thing("new", 2)))!.Version);

        // Nothing is read meanwhile, by which it would be noticed.
        var tier = api.Services.GetRequiredService<RedisTier>();
        await redis.KillAsync();
        await Eventually.TrueAsync(() => !tier.IsTrusted);
        await redis.StartAgainAsync();
        await Eventually.TrueAsync(() => tier.IsTrusted);

        var after = await engine.GetAsync(new Thing("new", 2));
        Assert.Equal(2, Engine.Read(after)!.Version);
        Assert.Equal(CacheOutcome.Miss, after.Outcome);
    }

    [Fact]
    public async Task What_is_never_voided_before_its_time_is_kept_in_memory_meanwhile()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var (engine, tier, backplane) = (new Engine(api), api.Services.GetRequiredService<RedisTier>(), api.Services.GetRequiredService<Backplane>());
        var cache = new Cache<Thing>("weather", new CacheSettings(), ThingJson.Default.Thing, _ => 0, requiresBackplane: false);
        var loads = 0;
        async Task<CacheOutcome> ReadAsync() => (await engine.CacheAside.GetAsync(
            cache.Key("1"), _ => Task.FromResult<Thing?>(new("it", ++loads)), CancellationToken.None)).Outcome;
        await redis.KillAsync();
        await Eventually.TrueAsync(() => !tier.IsTrusted && !backplane.IsTrusted);

        Assert.Equal(CacheOutcome.Bypass, await ReadAsync());
        for (var read = 0; read < 20; read++)
        {
            Assert.Equal(CacheOutcome.MemoryHit, await ReadAsync());
        }

        Assert.Equal(1, loads);
    }

    [Fact]
    public async Task A_reader_that_comes_after_everything_was_dropped_does_not_join_a_load_around_redis()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var engine = new Engine(api, versioned: false);
        await redis.KillAsync();
        Thing source = new("old", 0);
        var slow = new SlowLoad(() => source);

        var before = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        source = new("new", 0);
        await engine.Invalidation.DropAllAsync(engine.Cache, cause: null, CancellationToken.None);
        var after = await engine.GetAsync(source);

        Assert.Equal("new", Engine.Read(after)!.Name);
        slow.GoOn();
        Assert.Equal("old", Engine.Read(await before)!.Name);
    }

    [Fact]
    public async Task It_comes_back_into_use_while_readers_go_on_asking_for_more_entities_than_can_be_remembered()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var (engine, tier) = (new Engine(api), api.Services.GetRequiredService<RedisTier>());
        using var stop = new CancellationTokenSource();
        var reads = 0;

        async Task ReadAsync(Random random)
        {
            while (!stop.IsCancellationRequested)
            {
                await engine.GetAsync(new Thing("it", 1), $"{random.Next(1_000_000)}");
                if (Interlocked.Increment(ref reads) % 100 == 0)
                {
                    await Task.Delay(1, CancellationToken.None); // the servers need the processors, too
                }
            }
        }

        var readers = Enumerable.Range(0, 8).Select(seed => Task.Run(() => ReadAsync(new Random(seed)))).ToArray();
        await redis.KillAsync();
        await Eventually.TrueAsync(() => !tier.IsTrusted);
        var away = reads;
        await Eventually.TrueAsync(() => reads > away + 12_000, "more reads than can be remembered");
        await redis.StartAgainAsync();
        await Eventually.TrueAsync(() => tier.IsTrusted, "Redis to be trusted again");

        await stop.CancelAsync();
        await Task.WhenAll(readers);
        await Eventually.TrueAsync(async () => (await engine.GetAsync(new Thing("it", 1))).Outcome is CacheOutcome.RedisHit);
    }

    [Fact]
    public async Task Scripts_that_redis_has_forgotten_are_sent_again()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();

        await using (var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true"))
        {
            await connection.GetServers()[0].ScriptFlushAsync();
        }

        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
        Assert.StartsWith("CachingApi; hit", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
    }

    [Fact]
    public async Task Foreign_values_under_our_keys_count_as_misses_and_are_replaced()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        var key = $"{api.KeyPrefix}:{(await api.KeysAsync()).Single(key => key.EndsWith($"{user.Id}", StringComparison.Ordinal))}";

        await using var connection = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var stored = (byte[])(await connection.GetDatabase().StringGetAsync(key))!;
        byte[] ofAnotherShape = [.. stored[..CacheEntry.HeaderSize], .. "{\"id\":\"x\"}"u8];
        foreach (var foreign in new RedisValue[] { "", "{}", new string('x', 100), ofAnotherShape })
        {
            await connection.GetDatabase().StringSetAsync(key, foreign);
            Assert.Equal("CachingApi; fwd=uri-miss; stored", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
            Assert.StartsWith("CachingApi; hit", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
        }

        // Of another Redis type, which GET refuses; so is the lease.
        await connection.GetDatabase().KeyDeleteAsync(key);
        await connection.GetDatabase().ListLeftPushAsync(key, "foreign");
        await connection.GetDatabase().ListLeftPushAsync($"{{{key}}}:lease", "foreign");
        Assert.Equal("CachingApi; fwd=uri-miss; stored", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
        Assert.StartsWith("CachingApi; hit", (await client.GetAsync($"/users/{user.Id}")).CacheStatus());
    }

    /// <remarks>It answers reads and publishes messages, but no process can invalidate what it holds.</remarks>
    [Fact]
    public async Task While_redis_refuses_writes_no_process_uses_it()
    {
        await using var redis = await RedisServer.StartAsync("--maxmemory-policy", "noeviction");
        await using var node = await StartAsync(redis);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: node, settings: new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = servers.Redis,
        });
        await MemoryTierTests.TrustedAsync(node, other);
        var inMemory = new CacheSettings { MemoryTtl = TimeSpan.FromHours(1) };
        var (here, there) = (new Engine(node, inMemory), new Engine(other, inMemory));
        Thing source = new("old", 1);
        await there.GetAsync(_ => Task.FromResult<Thing?>(source));
        Assert.Equal(CacheOutcome.MemoryHit, (await there.GetAsync(source)).Outcome);
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        var server = connection.GetServers()[0];

        await server.ConfigSetAsync("maxmemory", "1");
        source = new("new", 2);
        await here.PutAsync(here.Key(), source, CancellationToken.None);
        await Eventually.TrueAsync(async () => Engine.Read(await there.GetAsync(source))!.Name == "new",
            "the other process to leave Redis alone");
        Assert.Equal(CacheOutcome.Bypass, (await there.GetAsync(source)).Outcome);

        await server.ConfigSetAsync("maxmemory", "0");
        await Eventually.TrueAsync(
            async () => (await there.GetAsync(source)) is { Outcome: CacheOutcome.RedisHit or CacheOutcome.MemoryHit } found
            && Engine.Read(found)!.Name == "new", "Redis to be in use again");
    }

    [Fact]
    public async Task A_reader_joins_no_load_around_redis_that_began_long_ago()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var engine = new Engine(node);
        await redis.KillAsync();
        var tier = node.Services.GetRequiredService<RedisTier>();
        await Eventually.TrueAsync(() => !tier.IsReachable);

        // 1. A load reads version 1; 2. another process commits version 2; 3. a reader comes.
        var slow = new SlowLoad(() => new("old", 1));
        var first = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        var joined = engine.GetAsync(_ => throw new InvalidOperationException("It joins."));
        var later = Environment.TickCount64 + 950;
        await Eventually.TrueAsync(() => Environment.TickCount64 > later);

        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 2)))!.Name);
        slow.GoOn();
        Assert.Equal("old", Engine.Read(await first)!.Name);
        Assert.True((await joined).Collapsed);
    }

    private Task<ApiNode> StartAsync(RedisServer redis) => ApiNode.StartAsync(servers, new()
    {
        ["ConnectionStrings:Redis"] = redis.ConnectionString,
        ["ConnectionStrings:RedisState"] = servers.Redis,
        ["Cache:RedisDeadline"] = "00:00:00.200",
    });

    private static async Task ReadAsync(HttpClient client, Guid id, int times, List<HttpStatusCode> statuses)
    {
        for (var read = 0; read < times; read++)
        {
            var answer = await client.GetAsync($"/users/{id}");
            lock (statuses)
            {
                statuses.Add(answer.StatusCode);
            }
        }
    }

    private static Task<HttpResponseMessage> CreateAsync(ApiNode api) => api.Anonymous.PostAsJsonAsync(
        "/users", new { email = $"{Guid.NewGuid():N}@example.org", displayName = "Grace Hopper", password = ApiNode.Password });

    private static Task<HttpResponseMessage> UpdateAsync(HttpClient client, User user, string name) =>
        client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = name });
}
