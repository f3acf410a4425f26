using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Sessions;

/// <summary>A user's sessions: listed, and ended one by one or all except the current one.</summary>
public sealed class SessionListTests(TestServers servers)
{
    [Fact]
    public async Task Only_my_sessions_are_listed_with_their_devices()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        await api.LogInAsync((await api.CreateUserAsync()).Email);
        using var phone = await LogInAsync(api, user.Email, "phone");
        using var laptop = await LogInAsync(api, user.Email, "laptop");

        var answer = await laptop.GetAsync("/sessions");
        Assert.Equal("no-store", answer.Header("Cache-Control"));
        var sessions = (await answer.JsonAsync()).EnumerateArray().ToArray();

        Assert.Equal(["laptop", "phone"], sessions.Select(session => session.GetProperty("device").GetString()).Order());
        Assert.Equal(
            "laptop", Assert.Single(sessions, session => session.GetProperty("current").GetBoolean()).GetProperty("device").GetString());
        Assert.All(sessions, session =>
        {
            Assert.Equal(user.Id, session.GetProperty("userId").GetGuid());
            Assert.True(session.GetProperty("lastSeenAt").GetDateTime() >= session.GetProperty("createdAt").GetDateTime());
            Assert.False(session.TryGetProperty("token", out _));
        });
    }

    [Fact]
    public async Task One_of_my_sessions_is_ended_and_it_must_be_mine()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var here = await api.LogInAsync(user.Email);
        using var there = await api.LogInAsync(user.Email);
        using var stranger = await api.LogInAsync((await api.CreateUserAsync()).Email);
        var id = (await (await there.GetAsync("/sessions/current")).JsonAsync()).GetProperty("id").GetGuid();

        await UserContractTests.AssertProblemAsync(await stranger.DeleteAsync($"/sessions/{id}"), HttpStatusCode.NotFound);
        Assert.Equal(HttpStatusCode.OK, (await there.GetAsync("/sessions/current")).StatusCode);

        Assert.Equal(HttpStatusCode.NoContent, (await here.DeleteAsync($"/sessions/{id}")).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await there.GetAsync("/sessions/current")).StatusCode);
        await UserContractTests.AssertProblemAsync(await here.DeleteAsync($"/sessions/{id}"), HttpStatusCode.NotFound);
        await UserContractTests.AssertProblemAsync(await here.DeleteAsync("/sessions/no-id"), HttpStatusCode.BadRequest);
        Assert.Single((await (await here.GetAsync("/sessions")).JsonAsync()).EnumerateArray());
    }

    [Fact]
    public async Task All_others_are_ended_and_this_one_goes_on()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var here = await api.LogInAsync(user.Email);
        var created = (await (await here.GetAsync("/sessions/current")).JsonAsync()).GetProperty("createdAt").GetDateTime();
        var others = new[] { await api.LogInAsync(user.Email), await api.LogInAsync(user.Email) };

        Assert.Equal(HttpStatusCode.NoContent, (await here.DeleteAsync("/sessions")).StatusCode);

        foreach (var other in others)
        {
            Assert.Equal(HttpStatusCode.Unauthorized, (await other.GetAsync("/sessions/current")).StatusCode);
        }

        Assert.Equal(
            created,
            Assert.Single((await (await here.GetAsync("/sessions")).JsonAsync()).EnumerateArray()).GetProperty("createdAt").GetDateTime());
        Assert.Equal(HttpStatusCode.NoContent, (await here.DeleteAsync("/sessions")).StatusCode);
        using var later = await api.LogInAsync(user.Email);
        Assert.Equal(HttpStatusCode.OK, (await here.GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(2, (await (await later.GetAsync("/sessions")).JsonAsync()).GetArrayLength());
    }

    [Fact]
    public async Task A_user_has_so_many_sessions_and_one_more_ends_the_one_unused_for_longest()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        var clients = new List<HttpClient>();
        for (var session = 0; session <= SessionStore.MaxSessions; session++)
        {
            clients.Add(await api.LogInAsync(user.Email));
        }

        Assert.Equal(HttpStatusCode.Unauthorized, (await clients[0].GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await clients[1].GetAsync("/sessions/current")).StatusCode);
        Assert.Equal(SessionStore.MaxSessions, (await (await clients[1].GetAsync("/sessions")).JsonAsync()).GetArrayLength());
    }

    [Fact]
    public async Task An_ended_session_leaves_nothing_behind()
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["Sessions:Idle"] = "00:00:01", ["Sessions:Absolute"] = "00:00:02", ["Admin:Email"] = "" });
        var user = await api.CreateUserAsync();
        using var client = await api.LogInAsync(user.Email);
        using var other = await api.LogInAsync(user.Email);
        await client.DeleteAsync("/sessions");
        await client.DeleteAsync("/sessions/current");

        await Eventually.TrueAsync(async () => !(await api.KeysAsync()).Any(key => key.StartsWith("sessions:", StringComparison.Ordinal)));
    }

    [Theory]
    [InlineData("00:00:00")]
    [InlineData("00:00:30")]
    public async Task A_session_that_was_ended_does_not_come_back_while_it_is_read_on_two_nodes(string memoryTtl)
    {
        var settings = new Dictionary<string, string> { ["Cache:Users:MemoryTtl"] = "00:01:00", ["Sessions:MemoryTtl"] = memoryTtl };
        await using var first = await ApiNode.StartAsync(servers, settings);
        await using var second = await ApiNode.StartAsync(servers, settings, nodeOf: first);
        var user = await first.CreateUserAsync();
        var store = first.Services.GetRequiredService<SessionStore>();
        await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var paths = new[] { "/sessions/current", $"/users/{user.Id}", "/sessions" };

        for (var round = 0; round < 1000; round++)
        {
            // Without a login, because hashing 1,000 passwords would take too long.
            var (token, _) = await store.CreateAsync(
                user.Id, "user", SessionTransport.Bearer, "test", isShort: false, CancellationToken.None);
            // Last used long ago: the first reads extend its idle limit, which must not bring it back.
            await redis.GetDatabase().HashSetAsync($"{first.KeyPrefix}:sessions:{{{user.Id}}}:{token.Hash}", "seen", 0);
            var ended = 0L;
            var broken = 0;
            var ender = round % 2 == 0 ? first : second;

            async Task ReadAsync(ApiNode node, string from)
            {
                HttpStatusCode status;
                do
                {
                    // The other node may serve it from memory until the message arrives.
                    var after = Volatile.Read(ref ended) is var end and not 0
                        && (memoryTtl == "00:00:00" || node == ender || Stopwatch.GetElapsedTime(end) > TimeSpan.FromSeconds(1));
                    status = await SendAsync(node, HttpMethod.Get, from, token);
                    if (after && status is HttpStatusCode.OK)
                    {
                        Interlocked.Increment(ref broken);
                    }
                }
                while (status is HttpStatusCode.OK && broken == 0);
            }

            var readers = new[] { first, second }.SelectMany(
                node => paths.Take(1 + round % 3).Select(from => ReadAsync(node, from))).ToArray();
            Assert.Equal(HttpStatusCode.NoContent, await SendAsync(ender, HttpMethod.Delete, "/sessions/current", token));
            Volatile.Write(ref ended, Stopwatch.GetTimestamp());
            await Task.WhenAll(readers);

            Assert.Equal(0, broken);
            Assert.Equal(HttpStatusCode.Unauthorized, await SendAsync(second, HttpMethod.Get, "/sessions/current", token));
        }
    }

    private static async Task<HttpStatusCode> SendAsync(ApiNode node, HttpMethod method, string path, SessionToken token)
    {
        using var request = new HttpRequestMessage(method, path);
        request.Headers.Authorization = new("Bearer", token.Text);
        return (await node.Anonymous.SendAsync(request)).StatusCode;
    }

    private static async Task<HttpClient> LogInAsync(ApiNode api, string email, string device)
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/sessions")
        {
            Content = JsonContent.Create(new { email, password = ApiNode.Password, transport = "bearer" }),
        };
        request.Headers.UserAgent.ParseAdd(device);
        var session = await (await api.Anonymous.SendAsync(request)).JsonAsync();
        var client = api.CreateClient();
        client.DefaultRequestHeaders.Authorization = new("Bearer", session.GetProperty("token").GetString());
        return client;
    }
}
