using System.Net;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using CachingApi.RequestState;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.RateLimiting;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Sessions;
using CachingApi.Tests.Users;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.RequestState;

/// <summary>A request's session and permits, read and acquired by one call.</summary>
public sealed class StateCallsTests(TestServers servers)
{
    [Fact]
    public async Task One_call_reads_the_session_and_acquires_the_permits()
    {
        await using var redis = await RedisServer.StartAsync();
        // No permits are leased by a policy that needs Redis.
        await using var api = await StartAsync(redis, ("RateLimits:Policies:default:OnStoreFailure", "closed"));
        var (user, client) = await UserAsync(api);
        var before = await RateLimitTests.CallsAsync(State(api).Multiplexer);

        for (var request = 1; request <= 10; request++)
        {
            var answer = await client.GetAsync($"/users/{user.Id}");
            Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
            Assert.Equal(600 - request, answer.List("RateLimit").Single().Parameters["r"]);
        }

        Assert.Equal(before + 10, await RateLimitTests.CallsAsync(State(api).Multiplexer));
        client.Dispose();
    }

    [Fact]
    public async Task A_denied_user_is_remembered_so_that_the_next_call_reads_the_session_only()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await StartAsync(redis, ("RateLimits:Policies:default:Limit", "1"));
        var (user, client) = await UserAsync(api);
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync($"/users/{user.Id}")).StatusCode);
        for (var request = 0; request < 3; request++)
        {
            var answer = await client.GetAsync($"/users/{user.Id}");
            await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.TooManyRequests);
            Assert.InRange(answer.Headers.RetryAfter!.Delta!.Value.TotalSeconds, 1, 60);
        }

        Assert.Equal(1, await api.MetricAsync("rate_limit_decisions_total", ("outcome", "denied"), ("policy", "default")));
        Assert.Equal(2, await api.MetricAsync("rate_limit_decisions_total", ("outcome", "denied_local"), ("policy", "default")));
        client.Dispose();
    }

    [Theory]
    [InlineData("ended")]
    [InlineData("revoked")]
    [InlineData("unknown")]
    [InlineData("of another transport")]
    public async Task A_bad_token_spends_no_permit_of_the_user_that_it_names(string token)
    {
        await using var api = await StartAsync();
        var (user, client) = await UserAsync(api);
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync($"/users/{user.Id}")).StatusCode);
        Assert.Equal(1, await UsedAsync(api, user));
        var store = api.Services.GetRequiredService<SessionStore>();
        switch (token)
        {
            case "ended":
                await store.EndAsync(SessionNodes.TokenOf(client), CancellationToken.None);
                break;
            case "revoked":
                await store.EndAllAsync(user.Id, CancellationToken.None);
                break;
            case "unknown":
                client.DefaultRequestHeaders.Authorization = new("Bearer", SessionToken.New(user.Id).Text);
                break;
            default:
                client.DefaultRequestHeaders.Add(
                    "Cookie", $"{SessionAuthentication.CookieName}={client.DefaultRequestHeaders.Authorization!.Parameter}");
                client.DefaultRequestHeaders.Authorization = null;
                break;
        }

        await client.GetAsync($"/users/{user.Id}");
        Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync("/sessions/current")).StatusCode);

        Assert.Equal(1, await UsedAsync(api, user));
        client.Dispose();
    }

    [Fact]
    public async Task Each_of_the_simultaneous_requests_gets_its_own_session_and_permits()
    {
        await using var api = await StartAsync();
        var calls = api.Services.GetRequiredService<StateCalls>();
        var store = api.Services.GetRequiredService<SessionStore>();
        var policy = LimiterNode.NewPolicy(Algorithm.FixedWindow, 5, TimeSpan.FromHours(1));
        var (users, requests) = (new List<Guid>(), new List<StateRequest>());
        for (var index = 0; index < 100; index++)
        {
            var id = Guid.NewGuid();
            users.Add(id);
            var (token, _) = await store.CreateAsync(
                id, "user", SessionTransport.Bearer, $"device {index}", isShort: false, CancellationToken.None);
            var prefix = $"{api.KeyPrefix}:sessions:{{{id}}}:";
            var session = new SessionUse(
                prefix + (index % 3 == 0 ? "unknown" : token.Hash), $"{prefix}revoked", SessionTransport.Bearer, 60_000, 1_000);
            // The same slot on a cluster.
            PermitRequest[] permits = [.. Enumerable.Range(0, index % 4).Select(number =>
                new PermitRequest(policy, $"{api.KeyPrefix}:limits:{{{id}}}:{number}", 1 + number))];
            requests.Add(new(index % 5 == 0 && permits.Length > 0 ? null : session, permits));
        }

        var replies = await Task.WhenAll(requests.Select(request => calls.SendAsync(request, CancellationToken.None)));

        for (var index = 0; index < replies.Length; index++)
        {
            var (request, reply) = (requests[index], replies[index]);
            var isValid = request.Session is not null && index % 3 != 0;
            Assert.Equal(isValid ? $"device {index}" : null, reply.Session?[3]);
            Assert.Equal(isValid || request.Session is null ? request.Permits.Length : 0, reply.Permits.Length);
            Assert.All(reply.Permits, permits => Assert.Equal((true, 5), (permits.Granted, permits.Available)));
            for (var number = 0; number < request.Permits.Length; number++)
            {
                Assert.Equal(reply.Permits.Length > 0, await State(api).KeyExistsAsync(request.Permits[number].Key));
            }
        }
    }

    [Fact]
    public async Task Invented_tokens_do_not_fill_the_partitions_that_are_measured_for_leases()
    {
        await using var api = await StartAsync();
        using var client = api.CreateClient();
        for (var request = 0; request < 20; request++)
        {
            var user = Guid.NewGuid();
            client.DefaultRequestHeaders.Authorization = new("Bearer", SessionToken.New(user).Text);
            Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync($"/users/{user}")).StatusCode);
            // That of the address.
            Assert.InRange(api.Services.GetRequiredService<PermitLeases>().Count, 0, 1);
        }
    }

    private static IDatabase State(ApiNode api) => api.Services.GetRequiredService<RedisConnections>().State;

    private static PermitRequest Request(ApiNode api, User user)
    {
        var policy = api.Services.GetRequiredService<RateLimitPolicies>().Find("default")!;
        return policy.RequestFor(api.KeyPrefix, $"user:{user.Id}", 1);
    }

    private static async Task<long> UsedAsync(ApiNode api, User user)
    {
        var state = (byte[]?)await State(api).StringGetAsync(Request(api, user).Key);
        return state is null ? 0 : System.Buffers.Binary.BinaryPrimitives.ReadInt64BigEndian(state.AsSpan(8));
    }

    private static async Task<(User User, HttpClient Client)> UserAsync(ApiNode api)
    {
        var user = await api.CreateUserAsync();
        return (user, await api.LogInAsync(user.Email));
    }

    /// <summary>A process without sessions in memory.</summary>
    private Task<ApiNode> StartAsync(RedisServer? state = null, params (string Key, string Value)[] settings) =>
        ApiNode.StartAsync(servers, new(settings.Select(setting => KeyValuePair.Create(setting.Key, setting.Value)))
        {
            ["RateLimits:Enabled"] = "true",
            ["RateLimits:Policies:login:Limit"] = "1000",
            ["Sessions:MemoryTtl"] = "00:00:00",
            ["ConnectionStrings:RedisState"] = state?.ConnectionString ?? "",
        });
}
