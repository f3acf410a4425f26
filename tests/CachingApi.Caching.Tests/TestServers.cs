using CachingApi.Caching.Tests;
using CachingApi.Tests.Servers;

[assembly: AssemblyFixture(typeof(TestServers))]

namespace CachingApi.Caching.Tests;

/// <summary>The Redis or Redis Cluster that the tests share.</summary>
public sealed class TestServers : IAsyncLifetime
{
    private SharedRedis _redis = null!;

    public string Redis => _redis.ConnectionString;

    public async ValueTask InitializeAsync() => _redis = await SharedRedis.StartAsync();

    public ValueTask DisposeAsync() => _redis.DisposeAsync();
}
