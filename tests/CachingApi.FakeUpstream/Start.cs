namespace CachingApi.FakeUpstream;

/// <summary>The fake as a program of its own: <c>./dev run</c> starts it where there is no internet. <c>--urls</c> says where it listens.</summary>
internal static class Start
{
    private static async Task Main(string[] arguments)
    {
        await using var fake = await FakeOpenMeteo.StartAsync(TimeProvider.System, arguments);
        await fake.EndedAsync();
    }
}
