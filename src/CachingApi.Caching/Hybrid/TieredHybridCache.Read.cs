using CachingApi.Caching.Hybrid;

namespace CachingApi.Caching;

internal sealed partial class TieredHybridCache
{
    /// <summary>One read: the data that its load and its checks need.</summary>
    /// <remarks>
    /// The read asks for the stamps of the caller's tags together with the entry, before the load. If a tag is removed during the load, it
    /// gets another stamp, so the loaded entry is invalid for every reader.
    /// </remarks>
    private sealed class Read<TState, T>(
        TieredHybridCache cache,
        string key,
        TState state,
        Func<TState, HybridCacheLoad, CancellationToken, ValueTask<T>>? factory,
        Tag[]? tags,
        TimeSpan expiration)
        : EntryCheck
    {
        private readonly Task<bool> _learned = tags is null or [] ? Learned : cache._tags.LearnAsync(tags, CancellationToken.None).AsTask();

        private static Task<bool> Learned { get; } = Task.FromResult(true);

        public override async ValueTask LearnAsync(CacheEntry? entry, CancellationToken cancel)
        {
            await _learned;
            if (entry is { Kind: EntryKind.Value } && cache._format.Parse(entry) is { Tags.Length: > 0 } parsed)
            {
                await cache.LearnAsync(parsed, cancel);
            }
        }

        public override bool Accepts(CacheEntry entry)
        {
            if (entry.Kind is not EntryKind.Value)
            {
                return false;
            }

            var parsed = cache._format.Parse(entry);
            return parsed.HasCurrentTags
                && Array.TrueForAll(parsed.Tags, stamped => cache._tags.IsKnown(stamped.Tag))
                && cache.CodecOf<T>(key, entry, parsed) is not null;
        }

        public async Task<HybridValue?> LoadAsync(CancellationToken stop)
        {
            var stamped = await StampsAsync(stop);
            var load = new HybridCacheLoad(expiration);
            var value = await factory!(state, load, stop);
            return cache.ValueOf(value, stamped, load.Expiration, load.Keep);
        }

        /// <summary>The stamps of the caller's tags; <c>null</c> if they are not known.</summary>
        /// <remarks>
        /// Time may have passed since the read began, for instance because another process had the lease. If Redis did not answer then, the
        /// load does not wait for it again.
        /// </remarks>
        private async ValueTask<StampedTag[]?> StampsAsync(CancellationToken stop) =>
            tags is not null && await _learned && await cache._tags.LearnAsync(tags, stop) ? cache.StampsOf(tags) : null;
    }

    /// <summary>Asks for the stamps of an entry's tags that are not known.</summary>
    private async ValueTask LearnAsync(HybridEntry parsed, CancellationToken cancel)
    {
        var stamped = parsed.Tags;
        if (Array.TrueForAll(stamped, tag => tag.IsCurrent && _tags.IsKnown(tag.Tag)))
        {
            return;
        }

        // A tag that was forgotten is another object now. If an entry has a later stamp than the known one, it was written after Redis lost
        // the stamp: only Redis has the one that is in force.
        parsed.Tags = stamped = Array.ConvertAll(stamped, tag => tag.Tag.IsForgotten ? tag with { Tag = _tags.Get(tag.Tag.Name) } : tag);
        await _tags.AskAsync(
            stamped.Where(tag => !_tags.IsKnown(tag.Tag) || tag.Stamp > tag.Tag.Stamp).Select(tag => tag.Tag), cancel);
    }
}
