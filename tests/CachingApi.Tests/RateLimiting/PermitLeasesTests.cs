using System.Collections.Concurrent;
using CachingApi.RateLimiting;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Tests.RateLimiting;

/// <summary>Leases of permits for hot partitions, each mechanism by itself.</summary>
public sealed class PermitLeasesTests(TestServers servers)
{
    private static readonly TimeSpan Long = TimeSpan.FromDays(20);

    public static TheoryData<string> Leased => ["fixed-window", "sliding-window-counter", "token-bucket"];

    [Theory]
    [MemberData(nameof(Leased))]
    public async Task A_hot_partition_costs_less_than_a_twentieth_of_a_round_trip_per_request(string algorithm)
    {
        const int Requests = 5000;
        await using var redis = await RedisServer.StartAsync();
        await using var node = new LimiterNode(redis.ConnectionString, LimiterNode.NewPrefix());
        await ConnectedAsync(node);
        var request = node.Request(LimiterNode.NewPolicy(algorithm, 1_000_000, TimeSpan.FromMinutes(1)));
        await node.DecideAsync(request);
        var (before, sent) = (await node.CallsAsync(), 0);

        await Task.WhenAll(Enumerable.Range(0, 16).Select(_ => Task.Run(async () =>
        {
            while (Interlocked.Increment(ref sent) <= Requests)
            {
                Assert.True((await node.DecideAsync(request)).Allowed);
            }
        })));

        var calls = await node.CallsAsync() - before;
        TestContext.Current.TestOutputHelper?.WriteLine($"{calls} calls for {Requests} requests");
        Assert.InRange(calls, 1, (Requests / 20) - 1);
    }

    [Theory]
    [MemberData(nameof(Leased))]
    public async Task Two_processes_under_load_use_all_permits_and_not_one_more(string algorithm)
    {
        const int Limit = 3000;
        var prefix = LimiterNode.NewPrefix();
        await using var one = await StartAsync(prefix);
        await using var two = await StartAsync(prefix);
        var policy = LimiterNode.NewPolicy(algorithm, Limit, Long);

        var allowed = (await Task.WhenAll(new[] { one, two }.SelectMany(node => Enumerable.Range(0, 8).Select(_ => Task.Run(async () =>
        {
            var (request, count) = (node.Request(policy), 0);
            while ((await node.DecideAsync(request)).Allowed)
            {
                count++;
            }

            return count;
        }))))).Sum();
        Assert.InRange(allowed, Limit / 2, Limit);

        // When the leases are refunded, a process without rejections in memory gets all remaining permits.
        await Eventually.TrueAsync(async () => await one.UsedAsync(policy) == allowed, $"the refunds of {Limit - allowed} permits");
        await using var three = await StartAsync(prefix);
        while ((await three.DecideAsync(three.Request(policy))).Allowed)
        {
            allowed++;
        }

        // A bucket keeps parts of a permit.
        Assert.InRange(allowed, algorithm is "token-bucket" ? Limit - 1 : Limit, Limit);
    }

    [Theory]
    [MemberData(nameof(Leased))]
    public async Task A_client_that_sends_single_requests_leases_nothing(string algorithm)
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var node = await StartAsync(time: time);
        var request = node.Request(LimiterNode.NewPolicy(algorithm, 1000, Long));
        for (var left = 999; left > 900; left--)
        {
            var decision = await node.DecideAsync(request);
            Assert.Equal(left, decision.Policies.Single().Left(decision.Allowed));
            time.Advance(TimeSpan.FromMilliseconds(20));
        }
    }

    [Theory]
    [MemberData(nameof(Leased))]
    public async Task Near_the_limit_redis_decides_each_request(string algorithm)
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var node = await StartAsync(time: time);
        var policy = LimiterNode.NewPolicy(algorithm, 100, Long);
        var (request, used) = (node.Request(policy), await node.BecomeHotAsync(node.Request(policy)));
        var left = 100 - await node.UsedAsync(policy);
        Assert.InRange(left, 1, 99 - used);

        // A lease is at most a sixteenth of the remaining permits, so it does not reach below 15.
        while (left > 15)
        {
            var before = left;
            var decision = await node.DecideAsync(request);
            left = decision.Policies.Single().Left(decision.Allowed);
            Assert.InRange(left, before - 1 - (before / 16), before);
            used++;
        }

        Advance(time, 150);
        await Eventually.TrueAsync(async () => await node.UsedAsync(policy) == used);
        for (; used < 100; used++)
        {
            var decision = await node.DecideAsync(request);
            left = decision.Policies.Single().Left(decision.Allowed);
            Assert.True(decision.Allowed);
            if (used > 84)
            {
                Assert.Equal(99 - used, left);
                Assert.Equal(used + 1, await node.UsedAsync(policy));
            }
        }

        Assert.False((await node.DecideAsync(request)).Allowed);
    }

    [Fact]
    public async Task A_request_from_a_lease_shows_all_leased_permits_as_used_and_the_time_that_is_left()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var redis = await RedisServer.StartAsync();
        await using var node = new LimiterNode(redis.ConnectionString, LimiterNode.NewPrefix(), time);
        await ConnectedAsync(node);
        var policy = LimiterNode.NewPolicy("fixed-window", 10_000, Long);
        var request = node.Request(policy);
        await node.BecomeHotAsync(request);
        var first = (await node.DecideAsync(request)).Policies.Single();

        time.Advance(TimeSpan.FromMilliseconds(40));
        var calls = await node.CallsAsync();
        var later = (await node.DecideAsync(request)).Policies.Single();

        Assert.Equal(calls, await node.CallsAsync());
        Assert.Equal(10_000 - await node.UsedAsync(policy), later.Left(allowed: true));
        Assert.Equal(first.Left(allowed: true), later.Left(allowed: true));
        Assert.Equal(first.Permits!.Value.Reset - 40, later.Permits!.Value.Reset);
        Assert.Equal(RateLimitMetrics.Allowed, later.By);
    }

    [Theory]
    [InlineData("sliding-window", StoreFailure.Local)]
    [InlineData("fixed-window", StoreFailure.Closed)]
    public async Task An_exact_log_and_a_closed_policy_are_never_leased(string algorithm, string onStoreFailure)
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var node = await StartAsync(time: time);
        var policy = LimiterNode.NewPolicy(algorithm, 1000, Long, onStoreFailure: onStoreFailure);
        var other = LimiterNode.NewPolicy("fixed-window", 1000, Long, "other");
        for (var used = 1; used <= 200; used++)
        {
            // A policy whose permits can be leased leases none together with a policy whose permits cannot.
            var decision = await node.DecideAsync(node.Request(policy), node.Request(other));
            Assert.All(decision.Policies, one => Assert.Equal(1000 - used, one.Left(decision.Allowed)));
        }
    }

    [Fact]
    public void A_lease_ends_with_its_window_by_the_clock_at_the_time_of_sending()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        foreach (var algorithm in Leased.Select(row => row.Data))
        {
            var policy = LimiterNode.NewPolicy(algorithm, 100, TimeSpan.FromSeconds(10));
            var request = new PermitRequest(policy, "key", 1);
            PermitLease LeaseAt(long redis) => new(
                request, 10, new Permits(0, 90, 1000) { Grant = new(redis, 1) }, time.GetTimestamp(), time);

            // Granted 30 ms before the window's end, or long before it.
            var (late, early) = (LeaseAt(1_795_382_509_970), LeaseAt(1_795_382_500_000));
            Assert.True(late.TryAcquire(1));
            time.Advance(TimeSpan.FromMilliseconds(27));
            Assert.True(late.TryAcquire(1));
            time.Advance(TimeSpan.FromMilliseconds(2));
            Assert.Equal(algorithm is "token-bucket", late.TryAcquire(1));
            Assert.True(early.TryAcquire(1));
            time.Advance(TimeSpan.FromMilliseconds(70));
            Assert.True(early.TryAcquire(1));
            time.Advance(TimeSpan.FromMilliseconds(1));
            Assert.False(early.TryAcquire(1));
            Assert.False(late.TryAcquire(1));
        }
    }

    [Fact]
    public async Task A_lease_whose_reply_is_late_is_refunded_and_not_used()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var node = new LimiterNode(proxy.ConnectionString, LimiterNode.NewPrefix(), time);
        await ConnectedAsync(node);
        var policy = LimiterNode.NewPolicy("fixed-window", 10_000, Long);
        var (request, used) = (node.Request(policy), await node.BecomeHotAsync(node.Request(policy)));
        while (node.Leases.TryAcquire([request]) is not null)
        {
            used++;
        }

        // The request is cancelled, and its lease arrives 100 ms after it was sent.
        proxy.Delay = TimeSpan.FromMilliseconds(300);
        using var cancelled = new CancellationTokenSource();
        var asking = node.Limiter.DecideAsync([request], cancelled.Token);
        time.Advance(TimeSpan.FromMilliseconds(101));
        await cancelled.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => asking);
        used++;

        await Eventually.TrueAsync(async () => await node.UsedAsync(policy) > used);
        proxy.Delay = TimeSpan.Zero;
        await Eventually.TrueAsync(async () =>
        {
            Assert.Null(node.Leases.TryAcquire([request]));
            time.Advance(TimeSpan.FromMilliseconds(50));
            return await node.UsedAsync(policy) == used;
        });
    }

    [Theory]
    [MemberData(nameof(Leased))]
    public async Task The_rest_of_a_lease_is_refunded_once(string algorithm)
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        var prefix = LimiterNode.NewPrefix();
        await using var other = await StartAsync(prefix);
        var policy = LimiterNode.NewPolicy(algorithm, 10_000, Long);
        int used;
        await using (var node = await StartAsync(prefix, time))
        {
            used = await node.BecomeHotAsync(node.Request(policy));
            Assert.InRange(await node.UsedAsync(policy), used + 1, 10_000);

            Advance(time, 150);
            await Eventually.TrueAsync(async () => await node.UsedAsync(policy) == used);
            Assert.Null(node.Leases.TryAcquire([node.Request(policy)]));
            Advance(time, 500);
            Assert.Equal(0, node.Leases.Count);

            used += await node.BecomeHotAsync(node.Request(policy));
            Assert.InRange(await node.UsedAsync(policy), used + 1, 10_000);
        }

        // A process that stops refunds its leases.
        Assert.Equal(used, await other.UsedAsync(policy));
    }

    [Theory]
    [MemberData(nameof(Leased))]
    public async Task A_refund_of_another_windows_or_servers_grant_changes_nothing(string algorithm)
    {
        await using var node = await StartAsync();
        var policy = LimiterNode.NewPolicy(algorithm, 1000, Long);
        var request = node.Request(policy, cost: 100) with { IsRefundable = true };
        var grant = (await node.Redis.AcquireAsync([request], CancellationToken.None)).Acquired.Single().Grant;
        var used = await node.UsedAsync(policy);

        await node.Redis.RefundAsync([request with { Cost = 40, Grant = grant with { Server = grant.Server + 1 } }]);
        await node.Redis.RefundAsync([request with { Cost = 40, Grant = grant with { Time = grant.Time - policy.WindowMilliseconds } }]);
        Assert.Equal(used, await node.UsedAsync(policy));

        await node.Redis.RefundAsync([request with { Cost = 40, Grant = grant }]);
        Assert.Equal(used - 40, await node.UsedAsync(policy));
    }

    [Fact]
    public async Task Permits_of_a_request_that_another_policy_denies_go_back_to_their_leases()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var node = await StartAsync(time: time);
        var (many, some) = (
            LimiterNode.NewPolicy("fixed-window", 10_000, Long, "many"), LimiterNode.NewPolicy("token-bucket", 600, Long, "some"));
        var (one, two) = (node.Request(many), node.Request(some, "api-key:1"));
        long used = 0;
        while (node.Leases.TryAcquire([one, two]) is null)
        {
            Assert.True((await node.DecideAsync(one, two)).Allowed);
            used++;
        }

        var both = ++used;
        var held = await node.UsedAsync(many) - used;
        Assert.InRange(held, 1, 1000);

        // The second policy's lease does not cover the request, so Redis decides, and denies it.
        var dear = node.Request(some, "api-key:1", cost: 600);
        Assert.Null(node.Leases.TryAcquire([one, dear]));
        Assert.False((await node.DecideAsync(one, dear)).Allowed);
        Assert.Equal(used + held, await node.UsedAsync(many));
        for (var left = held; left > 0; left--)
        {
            Assert.NotNull(node.Leases.TryAcquire([one]));
            used++;
        }

        Assert.Null(node.Leases.TryAcquire([one]));
        Advance(time, 150);
        await Eventually.TrueAsync(async () => await node.UsedAsync(some, "api-key:1") == both);
        Assert.Equal(used, await node.UsedAsync(many));
    }

    [Fact]
    public async Task A_lease_does_not_override_a_rejection()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var node = await StartAsync(time: time);
        var policy = LimiterNode.NewPolicy("fixed-window", 10_000, Long);
        var request = node.Request(policy);
        await node.BecomeHotAsync(request);

        node.Rejections.Remember(request, new(60_000, 0, 60_000), time.GetTimestamp());
        var decision = await node.DecideAsync(request);

        Assert.False(decision.Allowed);
        Assert.Equal(RateLimitMetrics.DeniedLocally, decision.Policies.Single().By);
    }

    [Fact]
    public async Task A_client_that_was_denied_because_of_a_lease_is_let_in_when_the_lease_is_refunded()
    {
        var (prefix, time) = (LimiterNode.NewPrefix(), new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50)));
        await using var redis = await RedisServer.StartAsync();
        await using var holder = new LimiterNode(redis.ConnectionString, prefix, time);
        await using var node = new LimiterNode(redis.ConnectionString, prefix, time);
        await ConnectedAsync(holder);
        await ConnectedAsync(node);
        var policy = LimiterNode.NewPolicy("fixed-window", 1000, Long);
        var used = await holder.BecomeHotAsync(holder.Request(policy));
        var rest = 1000 - (int)await holder.UsedAsync(policy);
        Assert.True((await node.DecideAsync(node.Request(policy, cost: rest))).Allowed);
        Assert.False((await node.DecideAsync(node.Request(policy))).Allowed);

        Advance(time, 150);
        await Eventually.TrueAsync(async () => await node.UsedAsync(policy) == used + rest);
        Assert.False((await node.DecideAsync(node.Request(policy))).Allowed);
        Advance(time, 100);
        for (; used + rest < 1000; used++)
        {
            Assert.True((await node.DecideAsync(node.Request(policy))).Allowed);
        }

        // Denied twice: from now on, no round trip is needed until the window ends.
        Assert.False((await node.DecideAsync(node.Request(policy))).Allowed);
        time.Advance(TimeSpan.FromSeconds(1));
        Assert.False((await node.DecideAsync(node.Request(policy))).Allowed);
        var calls = await node.CallsAsync();
        for (var request = 0; request < 100; request++)
        {
            time.Advance(TimeSpan.FromSeconds(1));
            Assert.False((await node.DecideAsync(node.Request(policy))).Allowed);
        }

        Assert.Equal(calls, await node.CallsAsync());
    }

    [Fact]
    public async Task A_lease_is_used_for_100_ms_at_most_while_redis_is_unavailable()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var redis = await RedisServer.StartAsync();
        await using var node = new LimiterNode(redis.ConnectionString, LimiterNode.NewPrefix(), time);
        await ConnectedAsync(node);
        var request = node.Request(LimiterNode.NewPolicy("fixed-window", 10_000, Long, onStoreFailure: StoreFailure.Open));
        await node.BecomeHotAsync(request);

        await redis.KillAsync();
        time.Advance(TimeSpan.FromMilliseconds(99));
        Assert.Equal(RateLimitMetrics.Allowed, (await node.DecideAsync(request)).Policies.Single().By);
        time.Advance(TimeSpan.FromMilliseconds(2));
        Assert.Equal(RateLimitMetrics.Fallback, (await node.DecideAsync(request)).Policies.Single().By);
    }

    [Fact]
    public async Task A_redis_user_that_may_not_run_info_gets_no_lease()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var redis = await RedisServer.StartAsync();
        await using var node = new LimiterNode(redis.ConnectionString, LimiterNode.NewPrefix(), time);
        await ConnectedAsync(node);
        await node.State.ExecuteAsync("ACL", "SETUSER", "default", "-info");
        var request = node.Request(LimiterNode.NewPolicy("fixed-window", 10_000, Long));
        for (var left = 9999; left > 9900; left--)
        {
            var decision = await node.DecideAsync(request);
            Assert.Equal(left, decision.Policies.Single().Left(decision.Allowed));
        }
    }

    [Fact]
    public async Task A_flood_of_partitions_needs_bounded_memory_and_idle_ones_are_removed()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var node = await StartAsync(time: time);
        var policy = LimiterNode.NewPolicy("fixed-window", 1000, Long);
        for (var client = 0; client < PermitLeases.Capacity + 1000; client++)
        {
            node.Leases.WithLeases([node.Request(policy, $"ip:{client}")]);
        }

        Assert.Equal(PermitLeases.Capacity, node.Leases.Count);
        Advance(time, 500);
        Assert.Equal(0, node.Leases.Count);
    }

    [Fact]
    public async Task Concurrent_requests_use_each_permit_of_a_lease_once()
    {
        var request = new PermitRequest(LimiterNode.NewPolicy("fixed-window", 10_000, Long), "key", 1);
        for (var round = 0; round < 200; round++)
        {
            var lease = new PermitLease(request, 300, new(0, 1000, 1000), TimeProvider.System.GetTimestamp(), TimeProvider.System);
            var (used, refunded) = (0, new ConcurrentBag<int>());
            await Task.WhenAll(Enumerable.Range(1, 4).Select(worker => Task.Run(() =>
            {
                for (var take = 0; take < 100; take++)
                {
                    if (lease.TryAcquire(worker))
                    {
                        Interlocked.Add(ref used, take % 5 == 0 && lease.TryReturn(worker) ? 0 : worker);
                    }
                }

                if (worker == 2)
                {
                    refunded.Add(lease.Close()?.Cost ?? 0);
                }
            })));
            Assert.Equal(300, used + refunded.Sum());
        }
    }

    private async Task<LimiterNode> StartAsync(string? prefix = null, TimeProvider? time = null)
    {
        var node = new LimiterNode(servers.Redis, prefix ?? LimiterNode.NewPrefix(), time);
        await ConnectedAsync(node);
        return node;
    }

    /// <summary>Advances step by step, because the clock runs a restarted timer only once per step.</summary>
    private static void Advance(FakeTimeProvider time, int milliseconds)
    {
        for (var step = 0; step < milliseconds; step += 50)
        {
            time.Advance(TimeSpan.FromMilliseconds(50));
        }
    }

    private static Task ConnectedAsync(LimiterNode node) => Eventually.TrueAsync(() => node.State.Multiplexer.IsConnected);
}
