using System.Collections.Concurrent;
using CachingApi.Storage;

namespace CachingApi.Caching;

/// <summary>
/// Versioned keys: <c>service:cache:g&lt;generation&gt;:id</c>, made here and nowhere else. A new generation drops every entry of
/// a cache at once, and a fill of the old generation that is still under way is never seen.
/// </summary>
internal sealed class Namespaces(Redis redis, RedisTier tier, Backplane backplane, TimeProvider time)
{
    /// <summary>How long a generation is believed while the backplane is not.</summary>
    private static readonly TimeSpan TrustedFor = TimeSpan.FromSeconds(1);

    private readonly ConcurrentDictionary<string, Known> _known = new();
    private readonly ConcurrentDictionary<string, bool> _caches = new();

    /// <summary>The caches that this process has had to do with.</summary>
    public ICollection<string> Caches => _caches.Keys;

    /// <summary>The generation of a cache, <c>null</c> where Redis is away.</summary>
    public async ValueTask<long?> CurrentAsync(string cache, CancellationToken cancel)
    {
        if (_known.TryGetValue(cache, out var known) && (backplane.IsTrusted || time.GetElapsedTime(known.ReadAt) < TrustedFor))
        {
            return known.Generation;
        }

        return await AskAsync(cache, next: false, cancel);
    }

    /// <summary>Moves a cache to a new generation. Returns <c>false</c> where Redis is away.</summary>
    public async Task<bool> BumpAsync(string cache, CancellationToken cancel) => await AskAsync(cache, next: true, cancel) is not null;

    /// <summary>Another process has moved a cache to this generation.</summary>
    public void Learn(string cache, long generation) => Remember(cache, new(generation, time.GetTimestamp()));

    /// <summary>Messages may have been lost.</summary>
    public void Forget() => _known.Clear();

    public EntryKey Key(string cache, long generation, string id) => new($"{redis.KeyPrefix}:{cache}:g{generation}:{id}");

    private async Task<long?> AskAsync(string cache, bool next, CancellationToken cancel)
    {
        _caches[cache] = true;
        var asked = time.GetTimestamp();
        if (await tier.GenerationAsync(cache, next, cancel) is not { } generation)
        {
            _known.TryRemove(cache, out _);
            return null;
        }

        return Remember(cache, new(generation, asked));
    }

    /// <remarks>
    /// The higher one stays, as answers may arrive out of order:
    /// 1. a reader asks for the generation, Redis answers 7;
    /// 2. a writer bumps it to 8 and remembers 8;
    /// 3. the reader's 7 arrives: remembering it would show the dropped entries again, after the write was acknowledged.
    /// </remarks>
    private long Remember(string cache, Known answer) => _known.AddOrUpdate(
        cache,
        static (_, answer) => answer,
        static (_, held, answer) => new(Math.Max(held.Generation, answer.Generation), answer.ReadAt),
        answer).Generation;

    private readonly record struct Known(long Generation, long ReadAt);
}
