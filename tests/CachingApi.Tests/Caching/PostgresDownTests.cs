using System.Net;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.Time.Testing;
using Npgsql;

namespace CachingApi.Tests.Caching;

public sealed class PostgresDownTests(TestServers servers)
{
    [Fact]
    public async Task While_it_is_frozen_stale_entries_are_served_and_the_rest_is_503()
    {
        await using var postgres = await PostgresServer.StartDurableAsync();
        var impatient = new NpgsqlConnectionStringBuilder(postgres.ConnectionString)
        {
            Timeout = 1,
            CommandTimeout = 1,
            CancellationTimeout = 500,
        };
        var time = new FakeTimeProvider(DateTimeOffset.FromUnixTimeMilliseconds(TimeProvider.System.GetUtcNow().ToUnixTimeMilliseconds()));
        await using var api = await ApiNode.StartAsync(
            servers,
            new()
            {
                ["ConnectionStrings:Postgres"] = impatient.ConnectionString,
                ["Cache:Users:Ttl"] = "00:10:00",
                ["Cache:Users:StaleFor"] = "01:00:00",
            },
            time: time);
        var (cached, uncached) = (await api.CreateUserAsync(), await api.CreateUserAsync());
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{cached.Id}");
        time.Advance(TimeSpan.FromMinutes(11));

        await postgres.PauseAsync();

        var stale = await client.GetAsync($"/users/{cached.Id}");
        Assert.Equal(HttpStatusCode.OK, stale.StatusCode);
        Assert.Contains("detail=stale-", stale.CacheStatus(), StringComparison.Ordinal);
        var absent = await client.GetAsync($"/users/{uncached.Id}");
        Assert.Equal(HttpStatusCode.ServiceUnavailable, absent.StatusCode);
        Assert.Equal("1", absent.Header("Retry-After"));

        await postgres.ResumeAsync();

        await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{uncached.Id}")).StatusCode == HttpStatusCode.OK);
        NpgsqlConnection.ClearAllPools();
    }

    /// <remarks>Npgsql waits, a minute or longer, for a frozen server to confirm that it has cancelled a command.</remarks>
    [Fact]
    public async Task While_it_is_frozen_the_service_is_ready_and_degraded()
    {
        await using var postgres = await PostgresServer.StartDurableAsync();
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:Postgres"] = postgres.ConnectionString });
        Assert.Equal(HttpStatusCode.OK, (await api.Anonymous.GetAsync("/health/ready")).StatusCode);

        await postgres.PauseAsync();

        async Task<string?> StatusAsync()
        {
            var ready = await api.Anonymous.GetAsync("/health/ready").WaitAsync(TimeSpan.FromSeconds(30));
            Assert.Equal(HttpStatusCode.OK, ready.StatusCode);
            return (await ready.JsonAsync()).GetProperty("status").GetString();
        }

        await Eventually.TrueAsync(async () => await StatusAsync() == "degraded");
        await Eventually.TrueAsync(async () => await api.MetricAsync("pg_up") == 0);

        await postgres.ResumeAsync();
        await Eventually.TrueAsync(async () => await api.MetricAsync("pg_up") == 1);
        NpgsqlConnection.ClearAllPools();
    }

    [Theory]
    [InlineData("stopped")]
    [InlineData("killed")]
    public async Task Cached_reads_go_on_stale_ones_are_marked_the_rest_is_503_and_it_recovers(string fault)
    {
        await using var postgres = await PostgresServer.StartDurableAsync();
        var time = new FakeTimeProvider(DateTimeOffset.FromUnixTimeMilliseconds(TimeProvider.System.GetUtcNow().ToUnixTimeMilliseconds()));
        await using var api = await ApiNode.StartAsync(
            servers,
            new()
            {
                ["ConnectionStrings:Postgres"] = postgres.ConnectionString,
                ["Cache:SoftTimeout"] = "00:00:10", // on a busy machine, even a failure may be slow
                ["Cache:Users:Ttl"] = "00:10:00",
                ["Cache:Users:StaleFor"] = "01:00:00",
            },
            time: time);
        var (cached, uncached) = (await api.CreateUserAsync(), await api.CreateUserAsync());
        using var client = await api.AdminAsync();
        await client.GetAsync($"/users/{cached.Id}");

        await (fault == "stopped" ? postgres.StopAsync() : postgres.KillAsync());

        var fresh = await client.GetAsync($"/users/{cached.Id}");
        Assert.Equal(HttpStatusCode.OK, fresh.StatusCode);
        Assert.StartsWith("CachingApi; hit; ttl=", fresh.CacheStatus());
        Assert.EndsWith("detail=redis", fresh.CacheStatus());

        time.Advance(TimeSpan.FromMinutes(11));
        var stale = await client.GetAsync($"/users/{cached.Id}");
        Assert.Equal(HttpStatusCode.OK, stale.StatusCode);
        Assert.Matches(@"^CachingApi; hit; ttl=-\d+; detail=stale-if-error$", stale.CacheStatus());
        Assert.Equal("660", stale.Header("Age"));
        Assert.Equal(1, await api.MetricAsync("cache_requests_total", ("cache", "users"), ("result", "stale")));

        var absent = await client.GetAsync($"/users/{uncached.Id}");
        Assert.Equal(HttpStatusCode.ServiceUnavailable, absent.StatusCode);
        Assert.Equal("1", absent.Header("Retry-After"));
        Assert.Equal("application/problem+json", absent.Content.Headers.ContentType!.MediaType);
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await client.DeleteAsync($"/users/{uncached.Id}")).StatusCode);
        Assert.Equal("degraded", (await (await api.Anonymous.GetAsync("/health/ready")).JsonAsync()).GetProperty("status").GetString());

        await postgres.StartAgainAsync();

        await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{uncached.Id}")).StatusCode == HttpStatusCode.OK);
        await Eventually.TrueAsync(async () =>
            (await client.GetAsync($"/users/{cached.Id}")).CacheStatus() == "CachingApi; fwd=stale; stored");
        NpgsqlConnection.ClearAllPools();
    }
}
