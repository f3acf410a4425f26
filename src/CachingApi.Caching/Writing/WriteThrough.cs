using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Write-through, after the commit: the new value replaces the entry by compare-and-set of its revision, so that of two writers the later
/// commit wins, in whatever order they reach Redis.
/// </summary>
internal sealed class WriteThrough(Invalidation invalidation, TimeProvider time)
{
    /// <param name="began">When the write began, before its commit.</param>
    public Task PutAsync<T>(CacheKey<T> key, T value, Moment began, CancellationToken cancel) where T : class
    {
        var settings = key.Cache.Options;
        return invalidation.ReplaceAsync(
            key,
            key.Cache.RevisionOf(value),
            entryKey => CacheEntry.Of(entryKey, key.Cache, value, key.Cache.LastLoadTime, time.GetUtcNow()),
            settings.Ttl + settings.StaleFor,
            began,
            cancel);
    }
}
