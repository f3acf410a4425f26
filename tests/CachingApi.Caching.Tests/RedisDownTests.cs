using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>The cache's Redis fails; sessions are on another one.</summary>
public sealed class RedisDownTests(TestServers servers)
{
    [Theory]
    [InlineData("killed")]
    [InlineData("frozen")]
    [InlineData("paused")]
    [InlineData("slow")]
    public async Task The_first_reads_wait_and_the_later_ones_do_not_use_redis(string fault)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var node = await CacheNode.StartAsync(
            servers, CacheNode.On(proxy.ConnectionString, deadline: TimeSpan.FromMilliseconds(300)));
        var engine = new Engine(node.Services);
        double Waits() => node.Metric("cache.operation.duration");
        await Eventually.TrueAsync(async () => (await engine.GetAsync(new Thing("it", 1))).Outcome is CacheOutcome.RedisHit);
        await using var admin = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");

        var before = Waits();
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

        // Each wait ends at the deadline. There are at most two, for the generation and for the entry; none if the connection is known to
        // be lost.
        Assert.Equal(CacheOutcome.Bypass, (await engine.GetAsync(new Thing("it", 1))).Outcome);
        Assert.InRange(Waits() - before, 0, 2);
        if (fault == "killed")
        {
            // No operation waits for a lost connection. The library reports the loss a moment later.
            await Eventually.TrueAsync(() => node.Metric("cache.circuit_open") == 1, "the lost connection to be noticed");
        }

        for (var read = 0; read < 20; read++)
        {
            Assert.Equal(CacheOutcome.Bypass, (await engine.GetAsync(new Thing("it", 1), $"{read}")).Outcome);
        }

        // The circuit opens at the third failure; after that, no operation waits.
        Assert.InRange(Waits() - before, 0, 4);
        Assert.Equal(1, node.Metric("cache.circuit_open"));

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
        Assert.Equal(0, node.Metric("cache.circuit_open"));
    }

    /// <summary>The client's own time-out is a second.</summary>
    [Fact]
    public async Task A_deadline_of_more_than_a_second_holds()
    {
        await using var state = await RedisServer.StartAsync();
        await using var node = await CacheNode.StartAsync(servers, options => options.RedisState = state.ConnectionString);
        await using var admin = await ConnectionMultiplexer.ConnectAsync($"{state.ConnectionString},allowAdmin=true");

        await admin.GetServers()[0].ExecuteAsync("CLIENT", "PAUSE", "2000", "ALL");

        Assert.True(await node.Services.GetRequiredService<RedisConnections>().OnStateAsync(
            database => database.StringSetAsync($"{node.KeyPrefix}:mark", "set"), CancellationToken.None));
    }

    [Theory]
    [InlineData("wrong", "+@all", "NOAUTH")]
    [InlineData("right", "+@all -eval", "NOPERM")]
    public async Task The_log_names_the_reason_for_which_redis_refuses(string password, string rights, string reason)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var admin = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        string[] rules = ["SETUSER", "cache", "on", ">right", "allkeys", "allchannels", .. rights.Split(' ')];
        await admin.GetServers()[0].ExecuteAsync("ACL", [.. rules]);
        await admin.GetServers()[0].ExecuteAsync("CONFIG", "SET", "requirepass", "of the default user");

        await using var node = await CacheNode.StartAsync(
            servers, CacheNode.On($"{redis.ConnectionString},user=cache,password={password}"), whenTrusted: false);

        await Eventually.TrueAsync(
            () => node.Log.Any(line => line.Contains(reason, StringComparison.Ordinal)), $"{reason} to be logged");
        Assert.Equal(CacheOutcome.Bypass, (await new Engine(node.Services).GetAsync(new Thing("it", 1))).Outcome);
    }

    [Fact]
    public async Task If_the_services_are_not_started_the_log_says_once_that_nothing_is_cached()
    {
        await using var node = await CacheNode.StartAsync(servers, start: false);
        var engine = new Engine(node.Services);

        for (var read = 0; read < 3; read++)
        {
            Assert.Equal(CacheOutcome.Bypass, (await engine.GetAsync(new Thing("it", 1))).Outcome);
        }

        Assert.Single(node.Log, line => line.Contains("have not been started", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Loads_are_bounded_and_a_reader_that_finds_the_queue_full_fails_with_a_retry_time()
    {
        const int AtOnce = 32, Waiting = 256;
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var engine = new Engine(node.Services);
        await redis.KillAsync();
        await Eventually.TrueAsync(() => node.Metric("cache.circuit_open") == 1, "the lost connection to be noticed");
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

        var readers = Enumerable.Range(0, AtOnce + Waiting).Select(reader => engine.GetAsync(LoadAsync, $"{reader}")).ToList();
        bool IsRefused(Task reader) => reader.Exception?.InnerException is UnavailableException;
        await Eventually.TrueAsync(
            () =>
            {
                if (readers.Exists(IsRefused))
                {
                    return true;
                }

                readers.Add(engine.GetAsync(LoadAsync, $"{readers.Count}"));
                return false;
            },
            "a reader to find the queue full");

        gate.SetResult();
        await Eventually.TrueAsync(() => readers.TrueForAll(reader => reader.IsCompleted), "all readers to be answered");
        var answered = readers.FindAll(reader => !IsRefused(reader));
        Assert.All(await Task.WhenAll(answered), result => Assert.True(result.Found));
        Assert.Equal(AtOnce, most);
        Assert.Equal(answered.Count, total);
        Assert.True(total >= AtOnce + Waiting);
    }

    [Theory]
    [InlineData(true, "new")]
    [InlineData(false, "new")]
    [InlineData(true, null)]
    public async Task A_value_served_while_redis_was_away_is_not_followed_by_the_older_entry_in_redis(bool versioned, string? content)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var (engine, tier) = (new Engine(node.Services, versioned: versioned), node.Services.GetRequiredService<RedisTier>());
        await engine.GetAsync(new Thing("old", 1));
        var current = content is null ? null : new Thing(content, 2);

        await redis.PauseAsync();
        // Another process, or a user of psql, has committed a change, and this process serves it.
        await Eventually.TrueAsync(async () =>
        {
            Assert.Equal(current, Engine.Read(await engine.GetAsync(current)));
            return !tier.IsTrusted;
        });
        await redis.ResumeAsync();

        await Eventually.TrueAsync(async () =>
        {
            var result = await engine.GetAsync(current);
            Assert.Equal(current, Engine.Read(result));
            return result.Outcome is CacheOutcome.RedisHit;
        });
    }

    [Fact]
    public async Task A_redis_that_is_started_again_from_an_older_snapshot_serves_no_old_entry()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var engine = new Engine(node.Services);
        await engine.GetAsync(new Thing("old", 1));
        await using (var admin = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true"))
        {
            await admin.GetServers()[0].ExecuteAsync("SAVE");
        }

        await engine.PutAsync(engine.Key(), new("new", 2), CancellationToken.None);
        Assert.Equal(2, Engine.Read(await engine.GetAsync(new Thing("new", 2)))!.Version);

        // No read takes place meanwhile, because it would detect the restart.
        var tier = node.Services.GetRequiredService<RedisTier>();
        await redis.KillAsync();
        await Eventually.TrueAsync(() => !tier.IsTrusted);
        await redis.StartAgainAsync();
        await Eventually.TrueAsync(() => tier.IsTrusted);

        var after = await engine.GetAsync(new Thing("new", 2));
        Assert.Equal(2, Engine.Read(after)!.Version);
        Assert.Equal(CacheOutcome.Miss, after.Outcome);
    }

    [Fact]
    public async Task A_cache_that_only_expires_keeps_its_entries_in_memory_meanwhile()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var (tier, backplane) = (node.Services.GetRequiredService<RedisTier>(), node.Services.GetRequiredService<Backplane>());
        var engine = new Engine(node.Services);
        var cache = TestCache.Of(node.Services, "things-that-expire", new(), ThingJson.Default.Thing, requiresBackplane: false);
        var loads = 0;
        async Task<CacheOutcome> ReadAsync() => (await engine.CacheAside.GetAsync(
            cache.Key("1"), _ => Task.FromResult<Thing?>(new("it", ++loads)), null, CancellationToken.None)).Outcome;
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
    public async Task A_clear_that_redis_missed_is_replayed()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var (engine, tier) = (new Engine(node.Services), node.Services.GetRequiredService<RedisTier>());
        await engine.GetAsync(new Thing("old", 1));
        await redis.PauseAsync();
        await Eventually.TrueAsync(async () =>
        {
            await engine.GetAsync(new Thing("another", 1), "2");
            return !tier.IsTrusted;
        });

        // No read takes place meanwhile, because the values that this process has served would keep the older entry out, too.
        await engine.Invalidation.ClearAsync(engine.Cache.Name, cause: null, CancellationToken.None);
        await redis.ResumeAsync();
        await Eventually.TrueAsync(() => tier.IsTrusted);

        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 2)))!.Name);
    }

    [Fact]
    public async Task A_reader_that_comes_after_a_clear_does_not_join_a_load_without_redis()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var engine = new Engine(node.Services, versioned: false);
        await redis.KillAsync();
        Thing source = new("old", 0);
        var slow = new SlowLoad(() => source);

        var before = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        source = new("new", 0);
        await engine.Invalidation.ClearAsync(engine.Cache.Name, cause: null, CancellationToken.None);
        var after = await engine.GetAsync(source);

        Assert.Equal("new", Engine.Read(after)!.Name);
        slow.GoOn();
        Assert.Equal("old", Engine.Read(await before)!.Name);
    }

    [Fact]
    public async Task It_comes_back_into_use_while_readers_go_on_asking_for_more_entities_than_can_be_remembered()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var (engine, tier) = (new Engine(node.Services), node.Services.GetRequiredService<RedisTier>());
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

    /// <remarks>It answers reads and publishes messages, but no process can invalidate what it holds.</remarks>
    [Fact]
    public async Task While_redis_refuses_writes_no_process_uses_it()
    {
        await using var redis = await RedisServer.StartAsync("--maxmemory-policy", "noeviction");
        await using var node = await StartAsync(redis);
        await using var other = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString), nodeOf: node);
        var inMemory = new CacheOptions { MemoryTtl = TimeSpan.FromHours(1) };
        var (here, there) = (new Engine(node.Services, inMemory), new Engine(other.Services, inMemory));
        Thing source = new("old", 1);
        await there.GetAsync(_ => Task.FromResult<Thing?>(source));
        Assert.Equal(CacheOutcome.MemoryHit, (await there.GetAsync(source)).Outcome);
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        var server = connection.GetServers()[0];

        await server.ConfigSetAsync("maxmemory", "1");
        source = new("new", 2);
        await here.PutAsync(here.Key(), source, CancellationToken.None);
        await Eventually.TrueAsync(async () => Engine.Read(await there.GetAsync(source))!.Name == "new",
            "the other process not to use Redis");
        Assert.Equal(CacheOutcome.Bypass, (await there.GetAsync(source)).Outcome);
        Assert.False(await other.Services.GetRequiredService<RedisCalls>().ProbeAsync(CancellationToken.None));

        await server.ConfigSetAsync("maxmemory", "0");
        await Eventually.TrueAsync(
            async () => (await there.GetAsync(source)) is { Outcome: CacheOutcome.RedisHit or CacheOutcome.MemoryHit } found
            && Engine.Read(found)!.Name == "new", "Redis to be in use again");
    }

    [Fact]
    public async Task A_reader_joins_no_load_without_redis_that_began_long_ago()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await StartAsync(redis);
        var engine = new Engine(node.Services);
        await redis.KillAsync();
        var tier = node.Services.GetRequiredService<RedisTier>();
        await Eventually.TrueAsync(() => !tier.IsReachable);

        // 1. A load reads version 1; 2. another process commits version 2; 3. a reader comes.
        var slow = new SlowLoad(() => new("old", 1));
        var first = engine.GetAsync(slow.RunAsync);
        await slow.HasRead;
        var joined = engine.GetAsync(new Thing("new", 2));
        var later = Environment.TickCount64 + 950;
        await Eventually.TrueAsync(() => Environment.TickCount64 > later);

        Assert.Equal("new", Engine.Read(await engine.GetAsync(new Thing("new", 2)))!.Name);
        slow.GoOn();
        Assert.Equal("old", Engine.Read(await first)!.Name);
        // The reader has joined the first load, and another reader has been served version 2 meanwhile.
        Assert.Equal("new", Engine.Read(await joined)!.Name);
    }

    private Task<CacheNode> StartAsync(RedisServer redis) =>
        CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString, deadline: TimeSpan.FromMilliseconds(200)));
}
