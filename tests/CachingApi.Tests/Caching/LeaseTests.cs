using System.Net;
using System.Net.Http.Json;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Npgsql;

namespace CachingApi.Tests.Caching;

/// <summary>One load at a time across nodes.</summary>
public sealed class LeaseTests(TestServers servers)
{
    [Fact]
    public async Task A_cold_user_asked_for_a_thousand_times_at_once_by_three_processes_is_loaded_once()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.LogInAsync(user.Email); // a user's rights need no row
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
            var asked = await Task.WhenAll(
                processes.Select(process => process.Client.MetricAsync("cache_operation_duration_seconds_count", ("operation", "lease"))));
            return asked.All(count => count >= 1);
        });
        await block.CloseAsync();

        Assert.All(await Task.WhenAll(reads), answer => Assert.Equal(HttpStatusCode.OK, answer.StatusCode));
        var loads = await Task.WhenAll(processes.Select(process => process.Client.MetricAsync("cache_loads_total", ("cache", "users"))));
        Assert.Equal(1, loads.Sum());
    }

    [Fact]
    public async Task A_holder_killed_in_the_middle_of_its_load_delays_the_others_by_no_more_than_its_lease()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.LogInAsync(user.Email); // a user's rights need no row
        await client.PutAsJsonAsync($"/users/{user.Id}?strategy=invalidate", new { email = user.Email, displayName = "Loaded" });
        using var holder = await ApiProcess.StartAsync(node.SettingsWith([]));
        holder.Client.DefaultRequestHeaders.Authorization = client.DefaultRequestHeaders.Authorization;

        await using var block = await BlockAsync(node);

        var killed = holder.Client.GetAsync($"/users/{user.Id}");
        await Eventually.TrueAsync(async () => (await node.KeysAsync()).Any(key => key.EndsWith(":lease", StringComparison.Ordinal)));
        var waiting = client.GetAsync($"/users/{user.Id}");
        await Eventually.TrueAsync(
            async () => await node.MetricAsync("cache_operation_duration_seconds_count", ("operation", "lease")) >= 1);
        Assert.Equal(0, await node.MetricAsync("cache_load_duration_seconds_count"));

        await holder.KillAsync();
        await Assert.ThrowsAsync<HttpRequestException>(() => killed);
        await block.CloseAsync();

        Assert.Equal("Loaded", (await (await waiting).Content.ReadFromJsonAsync<User>())!.DisplayName);
        Assert.Equal(1, await node.MetricAsync("cache_loads_total", ("cache", "users"), ("outcome", "loaded")));
    }

    /// <summary>Until the connection is closed, no load ends.</summary>
    private static async Task<NpgsqlConnection> BlockAsync(ApiNode node)
    {
        var connection = new NpgsqlConnection($"{node.Database};Pooling=false");
        await connection.OpenAsync();
        await using var block = new NpgsqlCommand("BEGIN; LOCK TABLE users", connection);
        await block.ExecuteNonQueryAsync();
        return connection;
    }
}
