using System.Collections.Concurrent;
using CachingApi.Storage;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Coalesces look-ups: a <c>GET</c> that comes while others are under way rides with those that come at the same time, as one
/// <c>MGET</c> (one for each slot on a Redis Cluster). One that comes alone goes alone, at once.
/// </summary>
internal sealed class CoalescedGets(Redis redis) : IThreadPoolWorkItem
{
    private const int MaxKeys = 256;

    private readonly ConcurrentQueue<Look> _waiting = new();
    private int _underWay;
    private int _scheduled;

    public Task<RedisValue> GetAsync(string key)
    {
        if (Interlocked.Increment(ref _underWay) == 1)
        {
            return AloneAsync(key);
        }

        var look = new Look(key);
        _waiting.Enqueue(look);
        if (Interlocked.Exchange(ref _scheduled, 1) == 0)
        {
            ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);
        }

        return look.Value.Task;
    }

    /// <summary>Sends what has gathered until the thread pool came to it: the busier the process, the more.</summary>
    void IThreadPoolWorkItem.Execute()
    {
        // Before the queue is emptied: who comes later schedules the next one.
        Interlocked.Exchange(ref _scheduled, 0);
        var looks = new List<Look>();
        while (_waiting.TryDequeue(out var look))
        {
            looks.Add(look);
        }

        foreach (var slot in looks.GroupBy(look => redis.Cache.Multiplexer.GetHashSlot(look.Key)))
        {
            foreach (var together in slot.Chunk(MaxKeys))
            {
                _ = TogetherAsync(together);
            }
        }
    }

    private async Task<RedisValue> AloneAsync(string key)
    {
        try
        {
            return await redis.Cache.StringGetAsync(key);
        }
        finally
        {
            Interlocked.Decrement(ref _underWay);
        }
    }

    private async Task TogetherAsync(Look[] looks)
    {
        try
        {
            var values = await redis.Cache.StringGetAsync(Array.ConvertAll(looks, look => (RedisKey)look.Key));
            for (var index = 0; index < looks.Length; index++)
            {
                looks[index].Value.SetResult(values[index]);
            }
        }
#pragma warning disable CA1031 // Every failure goes to those that wait.
        catch (Exception error)
#pragma warning restore CA1031
        {
            foreach (var look in looks)
            {
                look.Value.TrySetException(error);
            }
        }
        finally
        {
            Interlocked.Add(ref _underWay, -looks.Length);
        }
    }

    private sealed record Look(string Key)
    {
        public TaskCompletionSource<RedisValue> Value { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
