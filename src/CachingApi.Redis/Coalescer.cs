using System.Collections.Concurrent;
using StackExchange.Redis;

namespace CachingApi.Redis;

/// <summary>
/// Combines simultaneous requests to Redis into one command (one for each slot on a Redis Cluster). A single request is sent alone,
/// without a delay.
/// </summary>
/// <param name="most">The current maximum number of requests in one command, so that a command does not delay others for long.</param>
/// <param name="key">A key of the request, which determines its slot.</param>
/// <param name="send">Sends requests of one slot; the replies are in the same order. If it fails, it fails for all of them.</param>
internal sealed class Coalescer<TRequest, TReply>(
    IConnectionMultiplexer multiplexer,
    Func<int> most,
    Func<TRequest, RedisKey> key,
    Func<TRequest[], Task<TReply[]>> send) : IThreadPoolWorkItem
{
    private readonly ConcurrentQueue<Waiting> _waiting = new();
    private int _underWay;
    private int _scheduled;

    public Task<TReply> SendAsync(TRequest request)
    {
        if (Interlocked.Increment(ref _underWay) == 1)
        {
            return AloneAsync(request);
        }

        var waiting = new Waiting(request);
        _waiting.Enqueue(waiting);
        if (Interlocked.Exchange(ref _scheduled, 1) == 0)
        {
            ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);
        }

        return waiting.Reply.Task;
    }

    /// <summary>Sends the requests that arrived before the thread pool ran this method. A busy process combines more of them.</summary>
    void IThreadPoolWorkItem.Execute()
    {
        // Before the queue is emptied: a request that comes later schedules the next run.
        Interlocked.Exchange(ref _scheduled, 0);
        var gathered = new List<Waiting>();
        while (_waiting.TryDequeue(out var waiting))
        {
            gathered.Add(waiting);
        }

        foreach (var slot in gathered.GroupBy(waiting => multiplexer.GetHashSlot(key(waiting.Request))))
        {
            foreach (var together in slot.Chunk(most()))
            {
                _ = TogetherAsync(together);
            }
        }
    }

    private async Task<TReply> AloneAsync(TRequest request)
    {
        try
        {
            return (await send([request]))[0];
        }
        finally
        {
            Interlocked.Decrement(ref _underWay);
        }
    }

    private async Task TogetherAsync(Waiting[] together)
    {
        try
        {
            var replies = await send(Array.ConvertAll(together, waiting => waiting.Request));
            for (var index = 0; index < together.Length; index++)
            {
                together[index].Reply.SetResult(replies[index]);
            }
        }
#pragma warning disable CA1031 // Every failure goes to the waiting callers.
        catch (Exception error)
#pragma warning restore CA1031
        {
            foreach (var waiting in together)
            {
                waiting.Reply.TrySetException(error);
            }
        }
        finally
        {
            Interlocked.Add(ref _underWay, -together.Length);
        }
    }

    private sealed class Waiting(TRequest request)
    {
        public TRequest Request => request;

        public TaskCompletionSource<TReply> Reply { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
