using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Caching;

public sealed class SingleFlightTests(TestServers servers)
{
    [Fact]
    public async Task Concurrent_readers_of_a_cold_user_load_it_once()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();

        var answers = await Task.WhenAll(Enumerable.Range(0, 200).Select(_ => client.GetAsync($"/users/{user.Id}")));

        Assert.All(answers, answer => Assert.True(answer.IsSuccessStatusCode));
        Assert.Equal(1, await api.MetricAsync("cache_loads_total", ("cache", "users")));
    }
}
