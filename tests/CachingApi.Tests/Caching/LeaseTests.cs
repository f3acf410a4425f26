using System.Globalization;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Caching;
using CachingApi.Storage;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using StackExchange.Redis;

namespace CachingApi.Tests.Caching;

/// <summary>One load at a time across nodes.</summary>
public sealed class LeaseTests(TestServers servers)
{
    /// <summary>A lease of another process, as Redis has it: see <c>read_or_lease.lua</c>.</summary>
    public static string Held =>
        string.Create(CultureInfo.InvariantCulture, $"{TimeProvider.System.GetUtcNow().AddMinutes(1).ToUnixTimeMilliseconds()} - other");

    [Fact]
    public async Task A_cold_key_asked_for_a_thousand_times_at_once_by_three_nodes_is_loaded_once()
    {
        await using var first = await ApiNode.StartAsync(servers);
        await using var second = await ApiNode.StartAsync(servers, nodeOf: first);
        await using var third = await ApiNode.StartAsync(servers, nodeOf: first);
        var engines = new[] { first, second, third }.Select(node => new Engine(node)).ToArray();
        var loads = 0;

        async Task<Thing?> LoadAsync(CancellationToken stop)
        {
            Interlocked.Increment(ref loads);
            await Task.Delay(300, stop);
            return new("it", 1);
        }

        var results = await Task.WhenAll(Enumerable.Range(0, 1000).Select(reader => engines[reader % 3].GetAsync(LoadAsync)));

        Assert.Equal(1, loads);
        Assert.All(results, result => Assert.Equal("it", Engine.Read(result)!.Name));
    }

    [Fact]
    public async Task A_cold_user_asked_for_a_thousand_times_at_once_by_three_processes_is_loaded_once()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.LogInAsync(user.Email); // whose rights need no row
        await client.PutAsJsonAsync($"/users/{user.Id}?strategy=invalidate", new { email = user.Email, displayName = "Loaded" });
        using var first = await ApiProcess.StartAsync(node.SettingsWith([]));
        using var second = await ApiProcess.StartAsync(node.SettingsWith([]));
        using var third = await ApiProcess.StartAsync(node.SettingsWith([]));
        ApiProcess[] processes = [first, second, third];
        await using var block = await BlockAsync(node);

        var reads = Enumerable.Range(0, 1000).Select(reader =>
        {
            var request = new HttpRequestMessage(HttpMethod.Get, $"/users/{user.Id}");
            request.Headers.Authorization = client.DefaultRequestHeaders.Authorization;
            return processes[reader % 3].Client.SendAsync(request);
        }).ToArray();
        await Eventually.TrueAsync(async () =>
        {
            var asked = await Task.WhenAll(processes.Select(process => process.Client.MetricAsync("cache_operation_duration_seconds_count", ("operation", "lease"))));
            return asked.All(count => count >= 1);
        });
        await block.CloseAsync();

        Assert.All(await Task.WhenAll(reads), answer => Assert.Equal(HttpStatusCode.OK, answer.StatusCode));
        var loads = await Task.WhenAll(processes.Select(process => process.Client.MetricAsync("cache_loads_total", ("cache", "users"))));
        Assert.Equal(1, loads.Sum());
    }

    [Fact]
    public async Task Waiters_are_woken_by_push()
    {
        await using var node = await ApiNode.StartAsync(servers);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: node);
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var channel = RedisChannel.Literal(node.Services.GetRequiredService<Backplane>().Channel);
        var woken = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await redis.GetSubscriber().SubscribeAsync(channel, (_, message) =>
        {
            if ($"{message}".Contains($" {(int)BackplaneEvent.Filled} things ", StringComparison.Ordinal))
            {
                woken.TrySetResult();
            }
        });
        var (here, there) = (new Engine(node), new Engine(other));
        var slow = new SlowLoad(() => new("it", 1));
        var reader = here.GetAsync(slow.RunAsync);
        await slow.HasRead;

        // Another process asks, so the holder publishes a message when its load ends.
        var waiter = there.GetAsync(_ => throw new InvalidOperationException("It waits."));
        await Eventually.TrueAsync(async () => await other.MetricAsync("cache_operation_duration_seconds_count", ("operation", "lease")) >= 1);
        slow.GoOn();

        await woken.Task.WaitAsync(TimeSpan.FromSeconds(10));
        Assert.Equal("it", Engine.Read(await waiter)!.Name);
        await reader;
    }

    [Fact]
    public async Task A_failed_load_of_another_node_is_tried_once_here_for_all_that_wait()
    {
        await using var node = await ApiNode.StartAsync(servers);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: node);
        await MemoryTierTests.TrustedAsync(node, other);
        var (here, there) = (new Engine(node), new Engine(other));
        var gate = new TaskCompletionSource();
        var loads = 0;

        async Task<Thing?> FailAsync(CancellationToken stop)
        {
            Interlocked.Increment(ref loads);
            await gate.Task.WaitAsync(stop);
            throw new InvalidDataException("broken");
        }

        var reader = here.GetAsync(FailAsync);
        await Eventually.TrueAsync(() => loads == 1);
        var waiters = Enumerable.Range(0, 20).Select(_ => there.GetAsync(FailAsync)).ToArray();
        await Eventually.TrueAsync(async () => await other.MetricAsync("cache_operation_duration_seconds_count", ("operation", "get")) >= 20);
        await Eventually.TrueAsync(async () => await other.MetricAsync("cache_operation_duration_seconds_count", ("operation", "lease")) >= 1);
        gate.SetResult();

        await Assert.ThrowsAsync<InvalidDataException>(() => reader);
        foreach (var waiter in waiters)
        {
            await Assert.ThrowsAsync<InvalidDataException>(() => waiter);
        }

        Assert.Equal(2, loads);
    }

    [Fact]
    public async Task A_failed_load_of_a_sick_node_does_not_fail_the_readers_of_a_healthy_one()
    {
        await using var sick = await ApiNode.StartAsync(servers);
        await using var healthy = await ApiNode.StartAsync(servers, nodeOf: sick);
        await MemoryTierTests.TrustedAsync(sick, healthy);
        var (there, here) = (new Engine(sick), new Engine(healthy));
        var (gate, loading) = (new TaskCompletionSource(), new TaskCompletionSource());

        var failed = there.GetAsync(async stop =>
        {
            loading.SetResult();
            await gate.Task.WaitAsync(stop);
            throw new InvalidDataException("This node cannot reach the source.");
        });
        await loading.Task;
        var waiting = here.GetAsync(new Thing("it", 1));
        await Eventually.TrueAsync(async () => await healthy.MetricAsync("cache_operation_duration_seconds_count", ("operation", "lease")) >= 1);
        gate.SetResult();

        await Assert.ThrowsAsync<InvalidDataException>(() => failed);
        Assert.Equal("it", Engine.Read(await waiting)!.Name);
    }

    [Fact]
    public async Task A_process_that_waits_gives_up_when_the_loads_of_two_others_have_failed()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var engine = new Engine(node);
        var (leases, backplane) = (node.Services.GetRequiredService<Leases>(), node.Services.GetRequiredService<Backplane>());
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var key = namespaces.Key(engine.Cache, await namespaces.CurrentAsync("things", CancellationToken.None), "1");
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        Task<double> AskedAsync() => node.MetricAsync("cache_operation_duration_seconds_count", ("operation", "lease"));
        Task FailAsync() => redis.GetSubscriber().PublishAsync(
            RedisChannel.Literal(backplane.Channel), backplane.Message(BackplaneEvent.Failed, "things", "1", "0"));
        await MemoryTierTests.TrustedAsync(node);
        await redis.GetDatabase().StringSetAsync(key.Lease, Held, TimeSpan.FromMinutes(1));

        var waiting = leases.TakeAsync("things", "1", key, new(TimeProvider.System.GetUtcNow(), _ => true), CancellationToken.None);
        await Eventually.TrueAsync(async () => await AskedAsync() > 0);
        await FailAsync();
        var asked = await AskedAsync();
        await Eventually.TrueAsync(async () => await AskedAsync() > asked + 1);
        Assert.False(waiting.IsCompleted);

        await FailAsync();
        await Assert.ThrowsAsync<UnavailableException>(() => waiting);
    }

    [Fact]
    public async Task A_load_that_outlives_its_lease_is_kept_if_no_write_has_come_meanwhile()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var lease = await LeaseOnThingAsync(node);

        Assert.Equal(LeaseState.Granted, await lease.TakeAsync("first", TimeSpan.FromMilliseconds(1)));
        await Eventually.TrueAsync(async () => await lease.TakeAsync("second", TimeSpan.FromMinutes(1)) is LeaseState.Granted);
        Assert.Equal(WriteState.Stored, await lease.FillAsync("first", version: 2));

        // The second process still has it.
        Assert.Equal(LeaseState.Held, await lease.TakeAsync("third", TimeSpan.FromMinutes(1)));
        Assert.Equal(WriteState.Refused, await lease.FillAsync("second", version: 1));
        Assert.Equal(WriteState.Stored, await lease.FillAsync("second", version: 3));
        Assert.Equal(WriteState.Late, await lease.FillAsync("first", version: 4));
    }

    [Fact]
    public async Task A_load_from_before_a_write_is_not_kept_even_if_redis_has_evicted_what_the_write_left()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var lease = await LeaseOnThingAsync(node);
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);

        Assert.Equal(LeaseState.Granted, await lease.TakeAsync("reader", TimeSpan.FromMinutes(1)));
        await lease.Engine.Invalidation.InvalidateAsync(lease.Engine.Key(), new(2), CancellationToken.None);
        Assert.True(await redis.GetDatabase().KeyDeleteAsync(lease.Key.Text));

        Assert.Equal(WriteState.Late, await lease.FillAsync("reader", version: 1));
        Assert.False(await redis.GetDatabase().KeyExistsAsync(lease.Key.Text));
    }

    [Fact]
    public async Task A_lease_whose_holder_died_delays_the_others_by_no_more_than_its_time()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var engine = new Engine(node);
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var redis = node.Services.GetRequiredService<RedisTier>();
        var epoch = await namespaces.CurrentAsync("things", CancellationToken.None);

        // A holder that never renews, nor gives back: it is dead.
        var read = await redis.ReadOrLeaseAsync(
            namespaces.Key(engine.Cache, epoch, "1"), "dead", Leases.Duration, TimeProvider.System.GetUtcNow(), CancellationToken.None);
        Assert.Equal(LeaseState.Granted, read.State);

        Assert.Equal("it", Engine.Read(await engine.GetAsync(new Thing("it", 1)))!.Name);
        Assert.Equal(CacheOutcome.RedisHit, (await engine.GetAsync(new Thing("it", 1))).Outcome);
    }

    [Fact]
    public async Task A_holder_killed_in_the_middle_of_its_load_delays_the_others_by_no_more_than_its_lease()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.LogInAsync(user.Email); // whose rights need no row
        await client.PutAsJsonAsync($"/users/{user.Id}?strategy=invalidate", new { email = user.Email, displayName = "Loaded" });
        using var holder = await ApiProcess.StartAsync(node.SettingsWith([]));
        holder.Client.DefaultRequestHeaders.Authorization = client.DefaultRequestHeaders.Authorization;

        await using var block = await BlockAsync(node);

        var killed = holder.Client.GetAsync($"/users/{user.Id}");
        await Eventually.TrueAsync(async () => (await node.KeysAsync()).Any(key => key.EndsWith(":lease", StringComparison.Ordinal)));
        var waiting = client.GetAsync($"/users/{user.Id}");
        await Eventually.TrueAsync(async () => await node.MetricAsync("cache_operation_duration_seconds_count", ("operation", "lease")) >= 1);
        Assert.Equal(0, await node.MetricAsync("cache_load_duration_seconds_count"));

        await holder.KillAsync();
        await Assert.ThrowsAsync<HttpRequestException>(() => killed);
        await block.CloseAsync();

        Assert.Equal("Loaded", (await (await waiting).Content.ReadFromJsonAsync<User>())!.DisplayName);
        Assert.Equal(1, await node.MetricAsync("cache_loads_total", ("cache", "users"), ("outcome", "loaded")));
    }

    [Fact]
    public async Task A_load_longer_than_the_lease_keeps_it_and_no_other_process_loads()
    {
        await using var node = await ApiNode.StartAsync(servers);
        await using var other = await ApiNode.StartAsync(servers, nodeOf: node);
        var (here, there) = (new Engine(node), new Engine(other));
        var loads = 0;

        async Task<Thing?> LoadAsync(CancellationToken stop)
        {
            Interlocked.Increment(ref loads);
            await Task.Delay(Leases.Duration * 2.5, stop);
            return new("it", 1);
        }

        await Task.WhenAll(here.GetAsync(LoadAsync), there.GetAsync(LoadAsync));

        Assert.Equal(1, loads);
    }

    [Fact]
    public async Task A_fill_without_the_lease_is_refused()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var engine = new Engine(node, versioned: false);
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var redis = node.Services.GetRequiredService<RedisTier>();
        var key = namespaces.Key(engine.Cache, await namespaces.CurrentAsync("things", CancellationToken.None), "1");
        var entry = CacheEntry.Of(key, engine.Cache, new("old", 0), TimeSpan.Zero, TimeProvider.System.GetUtcNow());
        Task<TierWrite> FillAsync(string token) => redis.FillAsync(
            "things", "1", key, token, entry, TimeSpan.FromMinutes(1), CancellationToken.None);
        Task<LeaseRead> LeaseAsync(string token) =>
            redis.ReadOrLeaseAsync(key, token, Leases.Duration, TimeProvider.System.GetUtcNow(), CancellationToken.None);

        Assert.Equal(WriteState.Late, (await FillAsync("never had")).State);

        // An invalidation breaks it, also of things that have no version.
        Assert.Equal(LeaseState.Granted, (await LeaseAsync("broken")).State);
        await engine.Invalidation.InvalidateAsync(engine.Key(), new(0), CancellationToken.None);
        Assert.Equal(WriteState.Late, (await FillAsync("broken")).State);

        Assert.Equal(LeaseState.Granted, (await LeaseAsync("good")).State);
        Assert.Equal(LeaseState.Held, (await LeaseAsync("other")).State);
        Assert.Equal(WriteState.Late, (await FillAsync("other")).State);
        Assert.Equal(WriteState.Stored, (await FillAsync("good")).State);
        Assert.Equal(LeaseState.Fresh, (await LeaseAsync("late")).State);
    }

    private static async Task<ThingLease> LeaseOnThingAsync(ApiNode node)
    {
        var (engine, namespaces) = (new Engine(node), node.Services.GetRequiredService<Namespaces>());
        var key = namespaces.Key(engine.Cache, await namespaces.CurrentAsync("things", CancellationToken.None), "1");
        return new(engine, node.Services.GetRequiredService<RedisTier>(), key);
    }

    /// <summary>The lease of one thing, as processes take it and fill under it.</summary>
    private sealed record ThingLease(Engine Engine, RedisTier Tier, EntryKey Key)
    {
        public async Task<LeaseState> TakeAsync(string token, TimeSpan duration) =>
            (await Tier.ReadOrLeaseAsync(Key, token, duration, DateTimeOffset.MaxValue, CancellationToken.None)).State;

        public async Task<WriteState> FillAsync(string token, long version)
        {
            var entry = CacheEntry.Of(Key, Engine.Cache, new("it", version), TimeSpan.Zero, TimeProvider.System.GetUtcNow());
            return (await Tier.FillAsync("things", "1", Key, token, entry, TimeSpan.FromMinutes(1), CancellationToken.None)).State;
        }
    }

    /// <summary>Until it is closed no load comes to its end.</summary>
    private static async Task<NpgsqlConnection> BlockAsync(ApiNode node)
    {
        var connection = new NpgsqlConnection($"{node.Database};Pooling=false");
        await connection.OpenAsync();
        await using var block = new NpgsqlCommand("BEGIN; LOCK TABLE users", connection);
        await block.ExecuteNonQueryAsync();
        return connection;
    }
}
