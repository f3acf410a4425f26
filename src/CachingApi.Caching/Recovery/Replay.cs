using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>Replays the invalidations of the auto-recovery queue on Redis: clears first, then single entries.</summary>
internal sealed class Replay(AutoRecoveryQueue queue, Namespaces namespaces, RedisTier redis, TimeProvider time)
{
    /// <summary>Whether the queue is empty.</summary>
    public bool IsDone => queue.IsEmpty;

    /// <summary>Replays the queue until it is empty, or until Redis does not answer.</summary>
    public async Task RunAsync(CancellationToken cancel)
    {
        foreach (var clear in queue.Clears())
        {
            if (!await namespaces.ClearAsync(clear.Key, cause: null).WaitAsync(cancel))
            {
                return;
            }

            queue.Complete(clear);
        }

        foreach (var entry in queue.Entries())
        {
            var ((cache, id), revision) = entry;
            if (await namespaces.CurrentAsync(cache, cancel) is not { Generation: { } generation } epoch)
            {
                return;
            }

            var key = namespaces.Key(cache, generation, id);
            var tombstone = CacheEntry.Tombstone(key, revision, time.GetUtcNow());
            var write = await redis.WriteAsync(cache, id, key, tombstone, Invalidation.TombstoneTtl, Moment.Now, cancel);
            if (write.State is WriteState.Unavailable || !await namespaces.IsCurrentAsync(cache, epoch, write.Generation, cancel))
            {
                return;
            }

            queue.Complete(entry);
        }
    }
}
