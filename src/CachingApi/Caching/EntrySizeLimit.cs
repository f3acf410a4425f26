using System.Collections.Concurrent;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// Keeps large entries out of the cache: they would displace many others, and hold up every look-up that shares their round trip.
/// </summary>
internal sealed partial class EntrySizeLimit(IOptions<CachingOptions> options, CacheMetrics metrics, TimeProvider time, ILogger<EntrySizeLimit> log)
{
    private readonly ConcurrentDictionary<string, bool> _logged = new();

    /// <summary>The entry itself; a tombstone of its revision if it is larger than <see cref="CachingOptions.MaxEntryBytes"/>.</summary>
    public CacheEntry Apply(Cache cache, EntryKey key, CacheEntry entry)
    {
        if (entry.Bytes.Length <= options.Value.MaxEntryBytes)
        {
            return entry;
        }

        metrics.Oversized(cache.Name);
        if (_logged.TryAdd(cache.Name, true))
        {
            Log.TooLarge(log, cache.Name, entry.Bytes.Length, options.Value.MaxEntryBytes);
        }

        return CacheEntry.Tombstone(key, entry.Revision, time.GetUtcNow());
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "An entry of {Bytes} bytes is not cached in {Cache}: Cache:MaxEntryBytes is {Limit}. Further ones are counted, not logged")]
        public static partial void TooLarge(ILogger log, string cache, int bytes, int limit);
    }
}
