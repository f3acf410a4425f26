namespace CachingApi.FakeUpstream;

/// <summary>
/// The fake as a program: <c>./dev run</c> starts it if the machine has no internet. <c>--urls</c> sets the address.
/// </summary>
internal static class Start
{
    /// <summary>About the latency of the real service: a miss is visibly slower than a hit, and concurrent misses share a load.</summary>
    private static readonly TimeSpan Latency = TimeSpan.FromMilliseconds(200);

    private static async Task Main(string[] arguments)
    {
        await using var fake = await FakeOpenMeteo.StartAsync(TimeProvider.System, arguments);
        fake.Delay = Latency;
        await fake.EndedAsync();
    }
}
