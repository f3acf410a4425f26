using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Api;

/// <summary>A node that the tests of one class share, because they change more than their own data.</summary>
public sealed class ClassApi(TestServers servers) : IAsyncLifetime
{
    internal ApiNode Node { get; private set; } = null!;

    public async ValueTask InitializeAsync() => Node = await ApiNode.StartAsync(servers);

    public ValueTask DisposeAsync() => Node.DisposeAsync();
}
