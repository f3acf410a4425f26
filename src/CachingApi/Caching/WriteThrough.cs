namespace CachingApi.Caching;

/// <summary>
/// Write-through, after the commit: the new value takes the entry's place by compare-and-set of its version, so that of two
/// writers the later commit wins, in whatever order they reach Redis.
/// </summary>
internal sealed class WriteThrough(Invalidation invalidation, TimeProvider time)
{
    public Task PutAsync<T>(CacheKey<T> key, T value, CancellationToken cancel) where T : class
    {
        var settings = key.Cache.Settings;
        return invalidation.ReplaceAsync(
            key,
            key.Cache.VersionOf(value),
            entryKey => CacheEntry.Of(entryKey, key.Cache, value, key.Cache.LastLoadTime, time.GetUtcNow()),
            settings.Ttl + settings.StaleFor,
            cancel);
    }
}
