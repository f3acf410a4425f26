using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Sessions;

/// <summary>
/// The process that has answered rejects an ended session at once. The other processes reject it within a second, even if messages
/// between them are lost.
/// </summary>
public sealed class SessionEndTests(TestServers servers, ITestOutputHelper output)
{
    private static readonly TimeSpan Bound = TimeSpan.FromSeconds(1);
    private static readonly string[] Ends = ["logout", "end one", "end others", "password", "deletion", "role"];
    private static readonly string[] Messages = ["ended ", "counted "];

    public static TheoryData<string> EveryEnd => [.. Ends];

    [Theory]
    [MemberData(nameof(EveryEnd))]
    public async Task The_process_that_answers_rejects_it_at_once(string end)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = proxy.ConnectionString });
        using var session = await BeginAsync(api, api);

        // The process does not wait for its own message.
        proxy.Loses = Messages;
        await session.EndAsync(api, end);

        Assert.Equal(HttpStatusCode.Unauthorized, (await session.Client.GetAsync("/sessions/current")).StatusCode);
    }

    [Fact]
    public async Task Each_script_that_ends_or_changes_a_session_publishes_it()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var (store, user, none) = (api.Services.GetRequiredService<SessionStore>(), Guid.NewGuid(), CancellationToken.None);
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var messages = await redis.GetSubscriber().SubscribeAsync(
            RedisChannel.Literal(api.Services.GetRequiredService<SessionBackplane>().Channel));
        async Task<SessionToken> CreateAsync() =>
            (await store.CreateAsync(user, "user", SessionTransport.Bearer, "test", isShort: false, none)).Token;

        async Task PublishesAsync(string what, Func<SessionToken, Task> operation)
        {
            var token = await CreateAsync();
            while (messages.TryRead(out _))
            {
            }

            await operation(token);
            var message = "";
            await Eventually.TrueAsync(
                () => messages.TryRead(out var next) && (message = $"{next.Message}") == SessionBackplane.Message(user),
                $"a message of {what}; the last one: {message}");
        }

        await PublishesAsync("an end", token => store.EndAsync(token, none));
        await PublishesAsync("the end of all", _ => store.EndAllAsync(user, none));
        await PublishesAsync("the end of all others", token => store.EndOthersAsync(token, token, always: false, none));
        await PublishesAsync("a password given again", token => store.AuthenticatedAsync(token, none));
        await PublishesAsync("one session too many", async _ =>
        {
            for (var session = 0; session < SessionStore.MaxSessions; session++)
            {
                await CreateAsync();
            }
        });
    }

    [Theory]
    [MemberData(nameof(EveryEnd))]
    public async Task Another_process_rejects_it_when_the_message_arrives(string end)
    {
        await using var nodes = await SessionNodes.StartAsync(servers);
        using var session = await BeginAsync(nodes.Here, nodes.There);

        await session.EndAsync(nodes.Here, end);

        await RejectsAsync(session, Stopwatch.GetTimestamp(), end);
        Assert.Equal(HttpStatusCode.Unauthorized, (await session.Elsewhere.GetAsync("/sessions/current")).StatusCode);
    }

    [Theory]
    [InlineData("cut")]
    [InlineData("delayed")]
    [InlineData("swallowed")]
    [InlineData("messages lost")]
    [InlineData("subscription closed")]
    public async Task Another_process_rejects_it_within_a_second_if_the_channel_fails(string fault)
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var nodes = await SessionNodes.StartAsync(servers, redis.ConnectionString, proxy.ConnectionString, "00:00:00.500");
        foreach (var end in Ends)
        {
            using var session = await BeginAsync(nodes.Here, nodes.There);
            using var goesOn = await BeginAsync(nodes.Here, nodes.There);
            await SessionNodes.WarmAsync(nodes.There, session.Elsewhere);
            Assert.True(nodes.Memory.IsTrusted);
            await FailAsync(proxy, redis, fault);

            await session.EndAsync(nodes.Here, end);

            await RejectsAsync(session, Stopwatch.GetTimestamp(), $"{fault}, {end}");
            Assert.True(fault != "messages lost" || proxy.Lost > 0);
            Mend(proxy);
            await Eventually.TrueAsync(async () =>
                (await session.Elsewhere.GetAsync("/sessions/current")).StatusCode is HttpStatusCode.Unauthorized);
            await SessionNodes.WarmAsync(nodes.There, goesOn.Elsewhere);
        }
    }

    [Theory]
    [InlineData("killed")]
    [InlineData("frozen")]
    [InlineData("restarted")]
    public async Task Another_process_rejects_it_within_a_second_if_the_state_server_fails(string fault)
    {
        await using var redis = await RedisServer.StartAsync("--appendonly", "yes", "--appendfsync", "always");
        await using var proxy = new FaultProxy(redis.Port);
        await using var nodes = await SessionNodes.StartAsync(servers, redis.ConnectionString, proxy.ConnectionString, "00:00:00.500");
        foreach (var end in new[] { "logout", "end others" })
        {
            using var session = await BeginAsync(nodes.Here, nodes.There);
            using var goesOn = await BeginAsync(nodes.Here, nodes.There);
            await SessionNodes.WarmAsync(nodes.There, session.Elsewhere);

            // The messages are lost, and after that no heartbeat can reveal it.
            proxy.Loses = Messages;
            await session.EndAsync(nodes.Here, end);
            var ended = Stopwatch.GetTimestamp();
            await (fault == "frozen" ? redis.PauseAsync() : redis.KillAsync());
            if (fault == "restarted")
            {
                await redis.StartAgainAsync();
            }

            await RejectsAsync(session, ended, $"{fault}, {end}");
            if (fault != "restarted")
            {
                await Eventually.TrueAsync(async () =>
                    (await goesOn.Elsewhere.GetAsync("/sessions/current")).StatusCode is HttpStatusCode.ServiceUnavailable);
                await (fault == "frozen" ? redis.ResumeAsync() : redis.StartAgainAsync());
            }

            Mend(proxy);
            await SessionNodes.WarmAsync(nodes.There, goesOn.Elsewhere);
            Assert.Equal(HttpStatusCode.Unauthorized, (await session.Elsewhere.GetAsync("/sessions/current")).StatusCode);
            await Eventually.TrueAsync(async () => // until this process uses the server again, too
                (await goesOn.Client.GetAsync("/sessions/current")).StatusCode is not HttpStatusCode.ServiceUnavailable);
        }
    }

    [Fact]
    public async Task The_session_that_ends_because_its_user_has_too_many_is_rejected_in_every_process()
    {
        await using var nodes = await SessionNodes.StartAsync(servers);
        using var session = await BeginAsync(nodes.Here, nodes.There);
        var store = nodes.Here.Services.GetRequiredService<SessionStore>();
        for (var other = 0; other < SessionStore.MaxSessions; other++)
        {
            await store.CreateAsync(session.UserId, "user", SessionTransport.Bearer, "test", isShort: false, CancellationToken.None);
        }

        await RejectsAsync(session, Stopwatch.GetTimestamp(), "too many");
    }

    [Fact]
    public async Task A_state_server_that_has_lost_its_data_has_no_sessions_that_memory_serves()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var nodes = await SessionNodes.StartAsync(servers, redis.ConnectionString);
        using var session = await BeginAsync(nodes.Here, nodes.There);

        await redis.FlushAsync();

        await RejectsAsync(session, Stopwatch.GetTimestamp(), "all data lost");
        Assert.Equal(HttpStatusCode.Unauthorized, (await session.Client.GetAsync("/sessions/current")).StatusCode);
    }

    /// <summary>A session that <paramref name="there"/> serves from memory, and another one of the same user.</summary>
    private static async Task<Begun> BeginAsync(ApiNode here, ApiNode there)
    {
        var user = await here.CreateUserAsync();
        var client = await here.LogInAsync(user.Email);
        var other = await here.LogInAsync(user.Email);
        var elsewhere = there.CreateClient();
        elsewhere.DefaultRequestHeaders.Authorization = client.DefaultRequestHeaders.Authorization;
        await SessionNodes.WarmAsync(here, client);
        await SessionNodes.WarmAsync(there, elsewhere);
        return new(user.Id, client, elsewhere, other);
    }

    private static async Task FailAsync(FaultProxy proxy, RedisServer redis, string fault)
    {
        switch (fault)
        {
            case "cut":
                proxy.Cut();
                break;
            case "delayed":
                proxy.Delay = TimeSpan.FromSeconds(3);
                break;
            case "swallowed":
                proxy.Swallows = true;
                break;
            case "messages lost":
                proxy.Loses = Messages;
                break;
            case "subscription closed":
                await using (var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true"))
                {
                    await connection.GetServers()[0].ExecuteAsync("CLIENT", "KILL", "TYPE", "pubsub");
                }

                break;
        }
    }

    private static void Mend(FaultProxy proxy)
    {
        if (proxy.Swallows)
        {
            // The replies to the discarded commands will not come: on these connections, later replies would be mistaken for them.
            proxy.Cut();
        }

        (proxy.Delay, proxy.Swallows, proxy.Loses) = (TimeSpan.Zero, false, []);
        proxy.Mend();
    }

    /// <summary>Checks that every request that begins more than a second after the end is refused.</summary>
    private async Task RejectsAsync(Begun session, long ended, string what)
    {
        var served = TimeSpan.Zero;
        while (true)
        {
            var begun = Stopwatch.GetElapsedTime(ended);
            var status = (await session.Elsewhere.GetAsync("/sessions/current")).StatusCode;
            if (status is HttpStatusCode.OK)
            {
                Assert.True(begun < Bound, $"{what}: served {begun} after the end.");
                served = begun;
            }
            else if (begun > Bound)
            {
                output.WriteLine($"{what}: last served {served.TotalMilliseconds:F0} ms after the end");
                return;
            }

            await Task.Delay(20);
        }
    }

    private sealed record Begun(Guid UserId, HttpClient Client, HttpClient Elsewhere, HttpClient Other) : IDisposable
    {
        /// <summary>Ends the session through a process, which answers that it has.</summary>
        public async Task EndAsync(ApiNode node, string end)
        {
            if (end == "role")
            {
                // As change data capture does when the role of the row has changed.
                await node.Services.GetRequiredService<SessionService>().EndAllAsync(UserId, CancellationToken.None);
                return;
            }

            var id = (await (await Client.GetAsync("/sessions/current")).JsonAsync()).GetProperty("id").GetGuid();
            var answer = end switch
            {
                "logout" => await Client.DeleteAsync("/sessions/current"),
                "end one" => await Other.DeleteAsync($"/sessions/{id}"),
                "end others" => await Other.DeleteAsync("/sessions"),
                "deletion" => await Other.DeleteAsync($"/users/{UserId}"),
                _ => await Other.PutAsJsonAsync(
                    $"/users/{UserId}/password",
                    new { currentPassword = ApiNode.Password, newPassword = "another long and unusual sentence" }),
            };
            Assert.Equal(HttpStatusCode.NoContent, answer.StatusCode);
        }

        public void Dispose()
        {
            Client.Dispose();
            Elsewhere.Dispose();
            Other.Dispose();
        }
    }
}
