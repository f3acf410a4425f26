using System.Collections.Concurrent;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// Keeps large entries out of the cache, because they would displace many others and delay every look-up that shares their round trip.
/// An entry that has already expired when it is made is not kept either.
/// </summary>
internal sealed partial class EntrySizeLimit(
    IOptions<CachingOptions> options,
    CacheMetrics metrics,
    TimeProvider time,
    ILogger<EntrySizeLimit> log)
{
    private readonly ConcurrentDictionary<string, bool> _logged = new();

    /// <summary>
    /// The entry itself; a tombstone of its revision if it is not usable, or larger than <see cref="CachingOptions.MaxEntryBytes"/>.
    /// </summary>
    public CacheEntry Apply(Cache cache, EntryKey key, CacheEntry entry)
    {
        var now = time.GetUtcNow();
        if (entry.Kind is EntryKind.Value && !entry.IsUsable(now))
        {
            return CacheEntry.Tombstone(key, entry.Revision, now);
        }

        if (entry.Bytes.Length <= options.Value.MaxEntryBytes || cache.LimitsItsEntries)
        {
            return entry;
        }

        metrics.Oversized(cache.Name);
        if (_logged.TryAdd(cache.Name, true))
        {
            Log.TooLarge(log, cache.Name, entry.Bytes.Length, options.Value.MaxEntryBytes);
        }

        return CacheEntry.Tombstone(key, entry.Revision, now);
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "An entry of {Bytes} bytes is not cached in {Cache}: Cache:MaxEntryBytes is {Limit}. Further entries are counted, not logged")]
        public static partial void TooLarge(ILogger log, string cache, int bytes, int limit);
    }
}
