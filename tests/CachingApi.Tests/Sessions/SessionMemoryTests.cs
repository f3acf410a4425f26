using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Redis;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Tests.Sessions;

/// <summary>Sessions in memory: their cost, their lifetime and their end.</summary>
public sealed class SessionMemoryTests(TestServers servers, ITestOutputHelper output)
{
    [Fact]
    public async Task A_session_in_memory_asks_the_state_server_nothing()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString });
        using var client = await LogInAsync(api);
        await SessionNodes.WarmAsync(api, client);
        var before = await ReadsAsync(redis);

        for (var request = 0; request < 100; request++)
        {
            Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/sessions/current")).StatusCode);
        }

        Assert.Equal(before, await ReadsAsync(redis));
    }

    [Fact]
    public async Task Without_memory_each_request_asks_the_state_server_and_no_process_listens()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:RedisState"] = redis.ConnectionString,
            ["Sessions:MemoryTtl"] = "00:00:00",
        });
        using var client = await LogInAsync(api);
        var before = await ReadsAsync(redis);

        for (var request = 0; request < 10; request++)
        {
            Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/sessions/current")).StatusCode);
        }

        Assert.Equal(before + 10, await ReadsAsync(redis));
        await using var connection = await ConnectionMultiplexer.ConnectAsync(redis.ConnectionString);
        var channel = RedisChannel.Literal(api.Services.GetRequiredService<SessionBackplane>().Channel);
        Assert.Equal(0, await connection.GetServers()[0].SubscriptionSubscriberCountAsync(channel));
    }

    [Fact]
    public async Task Simultaneous_requests_share_calls_and_each_gets_its_own_answer()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:RedisState"] = redis.ConnectionString,
            ["Sessions:MemoryTtl"] = "00:00:00",
        });
        var store = api.Services.GetRequiredService<SessionStore>();
        var users = Enumerable.Range(0, 50).Select(_ => Guid.NewGuid()).ToArray();
        var tokens = new List<SessionToken>();
        foreach (var user in users)
        {
            tokens.Add((await store.CreateAsync(
                user, "user", SessionTransport.Bearer, "test", isShort: false, CancellationToken.None)).Token);
        }

        await store.EndAllAsync(users[10], CancellationToken.None);
        await store.EndAsync(tokens[11], CancellationToken.None);
        var state = api.Services.GetRequiredService<RedisConnections>().State;
        await state.StringSetAsync($"{api.KeyPrefix}:sessions:{{{users[12]}}}:{tokens[12].Hash}", "foreign data");
        var before = await CallsAsync(redis, "eval");

        var found = await Task.WhenAll(
            tokens.Select(token => store.UseAsync(token, SessionTransport.Bearer, CancellationToken.None).AsTask()));

        Assert.Equal(users.Select((user, index) => index is 10 or 11 or 12 ? (Guid?)null : user), found.Select(one => one?.UserId));
        Assert.InRange(await CallsAsync(redis, "eval") - before, 1, 25);
    }

    [Fact]
    public async Task The_absolute_limit_holds_to_the_moment()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Sessions:Absolute"] = "00:00:04" });
        using var client = await LogInAsync(api);
        var begun = Stopwatch.GetTimestamp();
        await SessionNodes.WarmAsync(api, client);
        var (used, lasted) = (begun, TimeSpan.Zero);
        while ((await client.GetAsync("/sessions/current")).StatusCode is HttpStatusCode.OK)
        {
            lasted = Stopwatch.GetElapsedTime(begun, used);
            await Task.Delay(50);
            used = Stopwatch.GetTimestamp();
        }

        // Measured by the time at which each request was sent.
        Assert.InRange(lasted.TotalSeconds, 0.5, 4);
    }

    [Fact]
    public async Task A_use_in_memory_counts_for_the_idle_limit()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Sessions:Idle"] = "00:00:04" });
        using var client = await LogInAsync(api);
        var begun = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(begun) < TimeSpan.FromSeconds(1.5))
        {
            Assert.Equal(HttpStatusCode.OK, (await client.GetAsync("/sessions/current")).StatusCode);
        }

        // Redis has recorded the last use, accurate to a twentieth of the limit.
        var shown = await (await client.GetAsync("/sessions")).JsonAsync();
        var seen = shown.EnumerateArray().Single();
        Assert.InRange(
            (seen.GetProperty("lastSeenAt").GetDateTime() - seen.GetProperty("createdAt").GetDateTime()).TotalSeconds, 1.2, 30);

        await Eventually.TrueAsync(() => Stopwatch.GetElapsedTime(begun) > TimeSpan.FromSeconds(6.5));
        Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task A_read_that_is_answered_before_the_end_and_arrives_after_it_is_not_kept()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var nodes = await SessionNodes.StartAsync(servers, redis.ConnectionString, proxy.ConnectionString);
        var user = await nodes.Here.CreateUserAsync();
        var (store, memory) = (nodes.Here.Services.GetRequiredService<SessionStore>(), nodes.Memory);
        var (token, _) = await store.CreateAsync(
            user.Id, "user", SessionTransport.Bearer, "the-device", isShort: false, CancellationToken.None);
        using var client = nodes.There.CreateClient();
        client.DefaultRequestHeaders.Authorization = new("Bearer", token.Text);

        var before = memory.Ticket(user.Id);
        var held = proxy.HoldAsync("the-device");
        var reading = client.GetAsync("/sessions/current");
        await held;
        await store.EndAsync(token, CancellationToken.None);
        await Eventually.TrueAsync(() => memory.Ticket(user.Id).Ends >= before.Ends + 2, "both messages");
        proxy.Release();

        Assert.Equal(HttpStatusCode.OK, (await reading).StatusCode);
        await Eventually.TrueAsync(() => memory.IsTrusted, "memory to be in use");
        Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync("/sessions/current")).StatusCode);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_number_that_does_not_follow_the_last_one_empties_memory(bool heartbeat)
    {
        await using var nodes = await SessionNodes.StartAsync(servers);
        using var client = await LogInAsync(nodes.There);
        await SessionNodes.WarmAsync(nodes.There, client);
        var (memory, token) = (nodes.Memory, SessionNodes.TokenOf(client));
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var channel = nodes.Here.Services.GetRequiredService<SessionBackplane>().Channel;

        // The session has ended, and no process has received the message about it.
        await redis.GetDatabase().KeyDeleteAsync($"{nodes.Here.KeyPrefix}:sessions:{{{token.UserId}}}:{token.Hash}");
        Assert.NotNull(memory.Find(token));
        if (heartbeat)
        {
            await redis.GetDatabase().StringIncrementAsync(channel);
        }
        else
        {
            await redis.GetSubscriber().PublishAsync(RedisChannel.Literal(channel), $"counted 7 8 {Guid.Empty}");
        }

        var began = Stopwatch.GetTimestamp();
        await Eventually.TrueAsync(() => memory.Find(token) is null && memory.IsTrusted);
        output.WriteLine($"Empty after {Stopwatch.GetElapsedTime(began)}");
        Assert.True(Stopwatch.GetElapsedTime(began) < TimeSpan.FromSeconds(10), "The number must empty memory before its sessions expire.");
        Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task A_channel_that_delivers_everything_late_is_not_trusted()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = proxy.ConnectionString });
        var memory = api.Services.GetRequiredService<SessionMemory>();
        await Eventually.TrueAsync(() => memory.IsTrusted);

        // In each direction, so that a heartbeat takes longer than a second. Heartbeats still arrive.
        proxy.Delay = TimeSpan.FromMilliseconds(600);
        await Eventually.TrueAsync(() => !memory.IsTrusted);
        var began = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(began) < TimeSpan.FromSeconds(4))
        {
            Assert.False(memory.IsTrusted);
            await Task.Delay(10);
        }

        proxy.Delay = TimeSpan.Zero;
        await Eventually.TrueAsync(() => memory.IsTrusted);
    }

    [Fact]
    public async Task A_password_that_is_given_again_counts_at_once_in_every_process_and_its_age_goes_on_in_memory()
    {
        await using var nodes = await SessionNodes.StartAsync(servers);
        var user = await nodes.Here.CreateUserAsync();
        using var here = await nodes.Here.LogInAsync(user.Email);
        using var there = nodes.OnThere(here);
        await EmailChangeTests.AgeAsync(servers, nodes.Here, user, TimeSpan.FromMinutes(11));
        await SessionNodes.WarmAsync(nodes.Here, here);
        await SessionNodes.WarmAsync(nodes.There, there);
        var (memory, token) = (nodes.Here.Services.GetRequiredService<SessionMemory>(), SessionNodes.TokenOf(here));
        var age = memory.Find(token)!.SinceAuthentication;
        Assert.InRange(age.TotalMinutes, 11, 12);
        await Eventually.TrueAsync(() => memory.Find(token)?.SinceAuthentication > age);

        Task<HttpResponseMessage> RenameAsync(HttpClient client) => client.PutAsJsonAsync(
            $"/users/{user.Id}", new { email = $"{Guid.NewGuid():N}@example.org", displayName = user.DisplayName });
        Assert.Equal(HttpStatusCode.Forbidden, (await RenameAsync(here)).StatusCode);
        Assert.Equal(HttpStatusCode.Forbidden, (await RenameAsync(there)).StatusCode);

        var given = await here.PostAsJsonAsync("/sessions/current/reauthentication", new { currentPassword = ApiNode.Password });

        Assert.Equal(HttpStatusCode.NoContent, given.StatusCode);
        async Task<bool> IsRecentAsync(ApiNode node) =>
            (await node.Services.GetRequiredService<SessionStore>().UseAsync(token, SessionTransport.Bearer, CancellationToken.None))!
                .SinceAuthentication < TimeSpan.FromMinutes(1);
        Assert.True(await IsRecentAsync(nodes.Here));
        var began = Stopwatch.GetTimestamp();
        await Eventually.TrueAsync(() => IsRecentAsync(nodes.There));
        Assert.True(Stopwatch.GetElapsedTime(began) < TimeSpan.FromSeconds(10), "The message must take effect before entries expire.");
        Assert.Equal(HttpStatusCode.OK, (await RenameAsync(there)).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await RenameAsync(here)).StatusCode);
    }

    [Fact]
    public async Task Memory_is_bounded_and_a_hit_allocates_nothing()
    {
        var memory = new SessionMemory(Options.Create(new SessionPolicy()));
        memory.TrustUntil(new(long.MaxValue));
        var session = new Session
        {
            Id = Guid.NewGuid(),
            UserId = Guid.NewGuid(),
            Role = "user",
            Device = "test",
            CreatedAt = default,
            LastSeenAt = default,
            ExpiresAt = default,
        };
        var token = SessionToken.New(session.UserId);
        void Keep(SessionToken of) =>
            memory.Keep(of, session, memory.Ticket(of.UserId), Moment.Now, TimeSpan.FromMinutes(1));
        for (var number = 0; number < 50_000; number++)
        {
            Keep(SessionToken.New(Guid.NewGuid()));
        }

        await Eventually.TrueAsync(() => memory.Held <= 10_000);
        Keep(token);
        for (var hit = 0; hit < 1000; hit++)
        {
            Assert.Same(session, memory.Find(token));
        }

        var (before, began) = (GC.GetAllocatedBytesForCurrentThread(), Stopwatch.GetTimestamp());
        for (var hit = 0; hit < 100_000; hit++)
        {
            memory.Find(token);
        }

        var bytes = GC.GetAllocatedBytesForCurrentThread() - before;
        output.WriteLine($"A hit: {Stopwatch.GetElapsedTime(began).TotalNanoseconds / 100_000:F0} ns, {bytes / 100_000.0:F2} bytes");
        Assert.True(bytes < 1_000_000, $"{bytes}");
    }

    [Fact]
    public async Task Another_process_rejects_an_ended_session_within_milliseconds()
    {
        const int Rounds = 300;
        await using var nodes = await SessionNodes.StartAsync(servers);
        var user = await nodes.Here.CreateUserAsync();
        var here = nodes.Here.Services.GetRequiredService<SessionStore>();
        var there = nodes.There.Services.GetRequiredService<SessionStore>();
        var times = new List<double>();
        for (var round = 0; round < Rounds; round++)
        {
            var (token, _) = await here.CreateAsync(
                user.Id, "user", SessionTransport.Bearer, "test", isShort: false, CancellationToken.None);
            await Eventually.TrueAsync(async () =>
                await there.UseAsync(token, SessionTransport.Bearer, CancellationToken.None) is not null
                && nodes.Memory.Find(token) is not null);
            await here.EndAsync(token, CancellationToken.None);
            var ended = Stopwatch.GetTimestamp();
            while (nodes.Memory.Find(token) is not null)
            {
                Assert.True(Stopwatch.GetElapsedTime(ended) < TimeSpan.FromSeconds(1));
                await Task.Yield();
            }

            times.Add(Stopwatch.GetElapsedTime(ended).TotalMilliseconds);
        }

        times.Sort();
        output.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"From the end to its rejection in another process: p50 {times[Rounds / 2]:F2}, p99 {times[Rounds * 99 / 100]:F2} ms"));
    }

    private static async Task<HttpClient> LogInAsync(ApiNode api) => await api.LogInAsync((await api.CreateUserAsync()).Email);

    /// <summary>How often a session was read. On a server without a cache, only these scripts use the command.</summary>
    private static Task<long> ReadsAsync(RedisServer redis) => CallsAsync(redis, "hmget");

    private static async Task<long> CallsAsync(RedisServer redis, string command)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        return (await connection.GetServers()[0].InfoAsync("commandstats")).SelectMany(section => section)
            .Where(line => line.Key.StartsWith($"cmdstat_{command}", StringComparison.Ordinal))
            .Sum(line => long.Parse(line.Value.Split("calls=")[1].Split(',')[0], CultureInfo.InvariantCulture));
    }
}
