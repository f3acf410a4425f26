using CachingApi.Caching;

namespace CachingApi.ChangeCapture;

/// <summary>
/// A table whose committed changes, by any client, invalidate a cache. Its primary key is the id of the entries.
/// </summary>
/// <param name="OnDeleteAsync">The further effects of the deletion of a row.</param>
internal sealed record TrackedTable(string Name, Cache Cache, Func<string, CancellationToken, Task> OnDeleteAsync);

internal static class ChangeCaptureSetup
{
    public static IServiceCollection AddChangeCapture(this IServiceCollection services) =>
        services.AddSingleton<ChangeSource>().AddHostedService<ChangeDataCapture>();

    /// <summary>Lets the committed changes of a table invalidate the cache.</summary>
    /// <param name="onDelete">The further effects of the deletion of a row; it may be called more than once.</param>
    public static CacheBuilder<T> TrackTable<T>(
        this CacheBuilder<T> cache, string table, Func<IServiceProvider, Func<string, CancellationToken, Task>>? onDelete = null)
        where T : class
    {
        cache.Services.AddSingleton(provider => new TrackedTable(
            table, provider.GetRequiredService<Cache<T>>(), onDelete?.Invoke(provider) ?? ((_, _) => Task.CompletedTask)));
        return cache;
    }
}
