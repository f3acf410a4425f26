using System.Diagnostics;
using System.Globalization;
using System.Net;
using CachingApi.RateLimiting;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;
using StackExchange.Redis;

namespace CachingApi.Tests.RateLimiting;

/// <summary>The limits as a client sees them, and their keys in Redis.</summary>
public sealed class RateLimitTests(TestServers servers)
{
    public static TheoryData<string> Algorithms => AlgorithmTests.Names;

    [Theory]
    [MemberData(nameof(Algorithms))]
    public async Task Requests_up_to_the_limit_are_allowed_and_the_next_answer_has_the_time_to_wait(string algorithm)
    {
        await using var app = await StartAsync(new(algorithm, Limit: 3, Window: "01:00:00"));
        for (var left = 2; left >= 0; left--)
        {
            var answer = await app.GetAsync("/");
            Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
            var (name, parameters) = Assert.Single(answer.List("RateLimit"));
            Assert.Equal("it", name);
            Assert.Equal(["r", "t"], parameters.Keys);
            Assert.Equal(left, parameters["r"]);
            Assert.InRange(parameters["t"], 1, 7200);
            (name, parameters) = Assert.Single(answer.List("RateLimit-Policy"));
            Assert.Equal("it", name);
            Assert.Equal(new() { ["q"] = 3, ["w"] = 3600 }, parameters);
            Assert.Empty(answer.Header("Retry-After"));
        }

        // First by Redis, then from memory: the same.
        for (var denied = 0; denied < 2; denied++)
        {
            var answer = await app.GetAsync("/");
            var problem = await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.TooManyRequests);
            Assert.Equal("https://iana.org/assignments/http-problem-types#quota-exceeded", problem.GetProperty("type").GetString());
            Assert.Equal("it", Assert.Single(problem.GetProperty("violated-policies").EnumerateArray()).GetString());
            Assert.Equal("no-store", answer.Header("Cache-Control"));
            var (_, parameters) = Assert.Single(answer.List("RateLimit"));
            Assert.Equal(0, parameters["r"]);
            var after = int.Parse(answer.Header("Retry-After"), CultureInfo.InvariantCulture);
            Assert.InRange(after, 1, 7200);
            Assert.InRange(after - parameters["t"], 0, 1);
            Assert.Single(answer.List("RateLimit-Policy"));
        }
    }

    [Theory]
    [MemberData(nameof(Algorithms))]
    public async Task A_client_that_waits_for_retry_after_is_allowed(string algorithm)
    {
        await using var app = await StartAsync(new(algorithm, Limit: 2, Window: "00:00:01"));
        for (var round = 0; round < 3; round++)
        {
            HttpResponseMessage answer;
            while ((answer = await app.GetAsync("/")).StatusCode is HttpStatusCode.OK)
            {
            }

            var seconds = int.Parse(answer.Header("Retry-After"), CultureInfo.InvariantCulture);
            Assert.InRange(seconds, 1, 2);
            await Task.Delay(TimeSpan.FromSeconds(seconds));
            Assert.Equal(HttpStatusCode.OK, (await app.GetAsync("/")).StatusCode);
        }
    }

    [Theory]
    [MemberData(nameof(Algorithms))]
    public async Task Every_key_expires_even_if_it_held_foreign_data(string algorithm)
    {
        await using var app = await StartAsync(new(algorithm, Limit: 3, Window: "00:00:30"));
        await app.StatusesAsync("/", 2);
        var key = Assert.Single(await app.KeysAsync());
        Assert.InRange((await app.State.KeyTimeToLiveAsync(key))!.Value.TotalSeconds, 0.001, 60);

        foreach (var foreign in new Func<Task>[]
        {
            () => app.State.StringSetAsync(key, "something else that is long enough to be read as a log"),
            () => app.State.ListRightPushAsync(key, "x"),
            () => app.State.StringSetAsync(key, ""),
        })
        {
            await app.State.KeyDeleteAsync(key);
            await foreign();
            Assert.Equal(HttpStatusCode.OK, (await app.GetAsync("/")).StatusCode);
            Assert.InRange((await app.State.KeyTimeToLiveAsync(key))!.Value.TotalSeconds, 0.001, 60);
        }
    }

    [Fact]
    public async Task A_denied_request_spends_nothing_of_any_policy()
    {
        await using var app = await LimitedApp.StartAsync(
            servers.Redis,
            new() { ["few"] = new(Limit: 2), ["many"] = new("sliding-window", Limit: 10), ["some"] = new("token-bucket", Limit: 4) },
            new() { ["/all"] = ["many", "few", "some"], ["/many"] = ["many"], ["/some"] = ["some"], ["/dear"] = ["some*3"] });

        Assert.Equal("200 200 429 429 429", await app.StatusesAsync("/all", 5));
        // Another client's requests, so that none is answered from memory.
        var other = await LimitedApp.StartAsync(
            servers.Redis,
            new() { ["few"] = new(Limit: 2), ["many"] = new("sliding-window", Limit: 10) },
            new() { ["/all"] = ["many", "few"] },
            app.KeyPrefix);
        await using (other)
        {
            var denied = await other.GetAsync("/all");
            Assert.Equal(HttpStatusCode.TooManyRequests, denied.StatusCode);
            Assert.Equal([("many", 8L), ("few", 0L)], denied.List("RateLimit").Select(limit => (limit.Name, limit.Parameters["r"])));
            Assert.Equal(["many", "few"], denied.List("RateLimit-Policy").Select(policy => policy.Name));
            Assert.Equal(
                ["few"], (await denied.JsonAsync()).GetProperty("violated-policies").EnumerateArray().Select(name => name.GetString()));
        }

        Assert.Equal(7, Left(await app.GetAsync("/many")));
        Assert.Equal(HttpStatusCode.TooManyRequests, (await app.GetAsync("/dear")).StatusCode);
        Assert.Equal(1, Left(await app.GetAsync("/some")));
    }

    [Fact]
    public async Task A_route_costs_its_declared_permits_and_a_cheaper_route_may_still_be_allowed()
    {
        await using var app = await LimitedApp.StartAsync(
            servers.Redis, new() { ["it"] = new(Limit: 7) }, new() { ["/"] = ["it"], ["/dear"] = ["it*5"] });

        Assert.Equal(2, Left(await app.GetAsync("/dear")));
        Assert.Equal("429 429", await app.StatusesAsync("/dear", 2));
        Assert.Equal("200 200 429", await app.StatusesAsync("/", 3));
    }

    [Fact]
    public async Task One_script_call_decides_all_policies_and_a_remembered_rejection_needs_none()
    {
        var time = new FakeTimeProvider(DateTimeOffset.UnixEpoch.AddYears(50));
        await using var redis = await RedisServer.StartAsync();
        await using var app = await LimitedApp.StartAsync(
            $"{redis.ConnectionString},allowAdmin=true",
            new() { ["one"] = new(Limit: 5), ["two"] = new("token-bucket", Limit: 9, Partition: "api-key") },
            new() { ["/"] = ["one", "two"] },
            time: time);
        await app.GetAsync("/");

        var before = await CallsAsync(app);
        Assert.Equal("200 200 200 200 429", await app.StatusesAsync("/", 5));
        Assert.Equal(before + 5, await CallsAsync(app));

        for (var request = 0; request < 500; request++)
        {
            Assert.Equal(HttpStatusCode.TooManyRequests, (await app.GetAsync("/")).StatusCode);
        }

        Assert.Equal(before + 5, await CallsAsync(app));

        // Not before there are permits again.
        time.Advance(TimeSpan.FromHours(2));
        await app.StatusesAsync("/", 1);
        Assert.Equal(before + 6, await CallsAsync(app));
    }

    [Fact]
    public async Task Requests_of_the_same_time_share_script_calls_and_each_has_its_own_answer()
    {
        const int Clients = 150;
        await using var redis = await RedisServer.StartAsync();
        await using var app = await LimitedApp.StartAsync(
            $"{redis.ConnectionString},allowAdmin=true",
            new() { ["one"] = new(Limit: 5), ["two"] = new("token-bucket", Limit: 9) },
            new() { ["/one"] = ["one"], ["/both"] = ["two*2", "one"], ["/rest"] = ["one*5"] });
        await app.GetAsync("/both");
        var before = await CallsAsync(app);

        string[] firsts = ["/one", "/both", "/rest"];
        await Task.WhenAll(Enumerable.Range(1, Clients).Select(client => app.GetAsync(firsts[client % 3], $"10.0.0.{client}")));
        var seconds = await Task.WhenAll(Enumerable.Range(1, Clients).Select(client => app.GetAsync("/both", $"10.0.0.{client}")));

        (HttpStatusCode Status, long Two, long One)[] expected =
        [
            (HttpStatusCode.OK, 7, 3),
            (HttpStatusCode.OK, 5, 3),
            (HttpStatusCode.TooManyRequests, 9, 0),
        ];
        Assert.All(Enumerable.Range(1, Clients), client =>
        {
            var answer = seconds[client - 1];
            var left = answer.List("RateLimit").ToDictionary(limit => limit.Name, limit => (long)limit.Parameters["r"]);
            Assert.Equal(expected[client % 3], (answer.StatusCode, left["two"], left["one"]));
        });
        Assert.InRange(await CallsAsync(app) - before, 1, (2 * Clients) - 1);
    }

    [Fact]
    public async Task A_raised_limit_counts_at_once_for_a_denied_client()
    {
        await using var app = await StartAsync(new(Limit: 2));
        Assert.Equal("200 200 429 429", await app.StatusesAsync("/", 4));

        app.Set("RateLimits:Policies:it:Limit", "3");

        Assert.Equal("200 429", await app.StatusesAsync("/", 2));
    }

    [Fact]
    public async Task A_changed_configuration_that_is_not_usable_changes_nothing()
    {
        await using var app = await StartAsync(new(Limit: 2));
        foreach (var (name, value) in new[] { ("Limit", "0"), ("Limit", "many"), ("Algorithm", "hope") })
        {
            try
            {
                app.Set($"RateLimits:Policies:it:{name}", value);
            }
            catch (AggregateException)
            {
                // The code that sets the configuration gets the error, too.
            }
        }

        Assert.Equal("200 200 429", await app.StatusesAsync("/", 3));
    }

    [Fact]
    public async Task A_flood_of_denied_keys_needs_bounded_memory()
    {
        await using var app = await StartAsync(new(Limit: 1));
        var rejections = app.Services.GetRequiredService<RejectionCache>();
        var policy = app.Services.GetRequiredService<RateLimitPolicies>().Find("it")!;
        for (var key = 0; key < 5 * RejectionCache.Capacity; key++)
        {
            rejections.Remember(new(policy, $"key {key}", 1), new(3_600_000, 0, 3_600_000), Stopwatch.GetTimestamp());
        }

        await Eventually.TrueAsync(() => rejections.Count <= RejectionCache.Capacity);
    }

    [Fact]
    public async Task Scripts_that_redis_has_lost_are_sent_again_and_an_empty_redis_begins_anew()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var app = await LimitedApp.StartAsync(
            redis.ConnectionString, new() { ["it"] = new(Limit: 5, OnStoreFailure: "closed") }, new() { ["/"] = ["it"] });
        Assert.Equal(4, Left(await app.GetAsync("/")));

        await app.State.Multiplexer.GetServers()[0].ExecuteAsync("SCRIPT", "FLUSH");
        Assert.Equal(3, Left(await app.GetAsync("/")));

        await redis.KillAsync();
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await app.GetAsync("/")).StatusCode);
        await redis.StartAgainAsync();
        HttpResponseMessage? answer = null;
        await Eventually.TrueAsync(async () => (answer = await app.GetAsync("/")).StatusCode is HttpStatusCode.OK);
        Assert.Equal(4, Left(answer!));
    }

    [Fact]
    public async Task In_a_cluster_policies_of_one_partition_share_a_slot_and_a_denial_in_one_slot_spends_nothing_in_another()
    {
        var nodes = $"cachingapi-nodes-{Guid.NewGuid():N}.conf";
        await using var redis = await RedisServer.StartAsync("--cluster-enabled", "yes", "--cluster-config-file", nodes);
        await using (var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true"))
        {
            var node = connection.GetServers()[0];
            await node.ConfigSetAsync("cluster-announce-ip", "127.0.0.1");
            await node.ConfigSetAsync("cluster-announce-port", redis.Port);
            await node.ExecuteAsync("CLUSTER", "ADDSLOTSRANGE", "0", "16383");
            await Eventually.TrueAsync(
                async () => $"{await node.ExecuteAsync("CLUSTER", "INFO")}".Contains("cluster_state:ok", StringComparison.Ordinal));
        }

        File.Delete(Path.Combine(Path.GetTempPath(), nodes));
        await using var app = await LimitedApp.StartAsync(
            redis.ConnectionString,
            new()
            {
                ["few"] = new(Limit: 2, Partition: "api-key", OnStoreFailure: "closed"),
                ["many"] = new("token-bucket", Limit: 10, OnStoreFailure: "closed"),
                ["some"] = new("sliding-window", Limit: 10, OnStoreFailure: "closed"),
            },
            new() { ["/all"] = ["many", "few", "some"], ["/many"] = ["many"], ["/some"] = ["some"] });
        Task<HttpResponseMessage> GetAsync() => app.GetAsync("/all", apiKey: "secret");

        Assert.Equal(HttpStatusCode.OK, (await GetAsync()).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await GetAsync()).StatusCode);
        var denied = await GetAsync();
        Assert.Equal(HttpStatusCode.TooManyRequests, denied.StatusCode);
        Assert.Equal(
            [("many", 8L), ("few", 0L), ("some", 8L)], denied.List("RateLimit").Select(limit => (limit.Name, limit.Parameters["r"])));

        Assert.Equal(7, Left(await app.GetAsync("/many")));
        Assert.Equal(7, Left(await app.GetAsync("/some")));
        var slots = (await app.KeysAsync()).Select(key => (Key: $"{key}", Slot: app.State.Multiplexer.HashSlot(key))).ToArray();
        Assert.Equal(2, slots.Where(key => key.Key.Contains("{ip:", StringComparison.Ordinal)).Select(key => key.Slot).Count());
        Assert.Single(slots.Where(key => key.Key.Contains("{ip:", StringComparison.Ordinal)).Select(key => key.Slot).Distinct());
        Assert.Equal(2, slots.Select(key => key.Slot).Distinct().Count());
    }

    [Fact]
    public async Task Clients_are_counted_by_address_and_an_ipv6_network_is_one_client()
    {
        await using var app = await StartAsync(new(Limit: 1));
        Assert.Equal("200 429", await app.StatusesAsync("/", 2, "203.0.113.7"));
        Assert.Equal("200", await app.StatusesAsync("/", 1, "203.0.113.8"));
        Assert.Equal("429", await app.StatusesAsync("/", 1, "::ffff:203.0.113.8"));

        Assert.Equal("200", await app.StatusesAsync("/", 1, "2001:db8:0:1::1"));
        Assert.Equal("429", await app.StatusesAsync("/", 1, "2001:db8:0:1:ffff:ffff:ffff:ffff"));
        Assert.Equal("200", await app.StatusesAsync("/", 1, "2001:db8:0:2::1"));
    }

    [Fact]
    public async Task An_api_key_counts_from_any_address_and_is_hashed_in_redis()
    {
        await using var app = await StartAsync(new(Limit: 1, Partition: "api-key"));
        Assert.Equal(HttpStatusCode.OK, (await app.GetAsync("/", "203.0.113.7", "one")).StatusCode);
        Assert.Equal(HttpStatusCode.TooManyRequests, (await app.GetAsync("/", "203.0.113.8", "one")).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await app.GetAsync("/", "203.0.113.7", "two")).StatusCode);
        // Without a key: by address.
        Assert.Equal("200 429", await app.StatusesAsync("/", 2, "203.0.113.7"));

        Assert.Equal(
            ["{api-key:3fc4ccfe745870e2c0d99f71f30ff065}", "{api-key:7692c3ad3540bb803c020b3aee66cd88}", "{ip:203.0.113.7}"],
            (await app.KeysAsync()).Select(key => $"{key}".Split(":limits:")[1].Split("}")[0] + "}").Order());
    }

    [Theory]
    [InlineData("nope", "RateLimits:Policies:nope: ")]
    [InlineData("it*4", "RateLimits:Policies:it:Limit: ")]
    public void A_route_with_an_unknown_policy_fails_startup(string limit, string problem) =>
        Assert.Contains(problem, LimitedApp.Problem(new() { ["it"] = new(Limit: 3) }, new() { ["/"] = [limit] }), StringComparison.Ordinal);

    private Task<LimitedApp> StartAsync(Policy policy) =>
        LimitedApp.StartAsync(servers.Redis, new() { ["it"] = policy }, new() { ["/"] = ["it"] });

    private static long Left(HttpResponseMessage answer)
    {
        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        return Assert.Single(answer.List("RateLimit")).Parameters["r"];
    }

    /// <summary>How many scripts Redis has run.</summary>
    internal static Task<int> CallsAsync(LimitedApp app) => CallsAsync(app.State.Multiplexer);

    internal static async Task<int> CallsAsync(IConnectionMultiplexer redis)
    {
        var calls = 0;
        foreach (var line in (await redis.GetServers()[0].InfoAsync("commandstats")).SelectMany(group => group))
        {
            calls += line.Key.StartsWith("cmdstat_eval", StringComparison.Ordinal)
                ? int.Parse(line.Value.Split("calls=")[1].Split(',')[0], CultureInfo.InvariantCulture)
                : 0;
        }

        return calls;
    }
}
