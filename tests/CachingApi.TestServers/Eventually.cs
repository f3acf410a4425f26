using System.Diagnostics;

namespace CachingApi.Tests.Servers;

/// <summary>Waits for a condition instead of sleeping for a fixed time.</summary>
internal static class Eventually
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    public static async Task TrueAsync(Func<Task<bool>> condition, string what = "a condition")
    {
        var start = Stopwatch.GetTimestamp();
        while (!await condition())
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < Patience, $"Waited {Patience} for {what}, which did not happen.");
            await Task.Delay(20);
        }
    }

    public static Task TrueAsync(Func<bool> condition, string what = "a condition") => TrueAsync(() => Task.FromResult(condition()), what);
}
