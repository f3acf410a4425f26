using CachingApi.Redis;

namespace CachingApi.Caching.Operations;

/// <summary>The writes of a cache that were acknowledged and could not be persisted.</summary>
public sealed class DeadLetters
{
    private readonly WriteBehindQueue _queue;
    private readonly WriteBehindTarget _target;

    internal DeadLetters(WriteBehindQueue queue, WriteBehindTarget target) => (_queue, _target) = (queue, target);

    /// <summary>The latest <paramref name="count"/> dead letters, the latest first.</summary>
    /// <exception cref="UnavailableException">The state server is away.</exception>
    public Task<IReadOnlyList<DeadLetter>> ListAsync(int count, CancellationToken cancel) => _queue.DeadLettersAsync(count, cancel);

    /// <summary>One dead letter; <c>null</c> if none has this id.</summary>
    /// <exception cref="UnavailableException">The state server is away.</exception>
    public Task<DeadLetter?> FindAsync(string letterId, CancellationToken cancel) => _queue.DeadLetterAsync(letterId, cancel);

    /// <summary>Queues the write of a dead letter as a new one; <c>false</c> if the entity is gone or the change is not possible.</summary>
    /// <exception cref="UnavailableException">The state server is away.</exception>
    public async Task<bool> RetryAsync(DeadLetter letter, CancellationToken cancel)
    {
        if (!await _target.RetryAsync(letter.Write, cancel))
        {
            return false;
        }

        await _queue.DropAsync(letter.LetterId, cancel);
        return true;
    }

    /// <summary>Drops a dead letter; <c>false</c> if none has this id.</summary>
    /// <exception cref="UnavailableException">The state server is away.</exception>
    public Task<bool> DropAsync(string letterId, CancellationToken cancel) => _queue.DropAsync(letterId, cancel);
}

/// <summary>A queued write.</summary>
/// <param name="Token">Its fencing token, which orders all writes of the entity.</param>
/// <param name="Version">
/// The version that the caller received. Of two queued writes of one entity, the later one has the higher version.
/// </param>
/// <param name="Over">The highest fence that the write may overwrite: the one before its token, or a foreign one.</param>
/// <param name="AcceptedAt">When the write was acknowledged.</param>
public sealed record QueuedWrite(long Token, string Id, long Version, long Over, DateTimeOffset AcceptedAt, ReadOnlyMemory<byte> Value);

/// <summary>A write that could not be persisted.</summary>
/// <param name="LetterId">Its id among the dead letters.</param>
/// <param name="DiedAt">When the last attempt failed.</param>
/// <param name="Reason">Why it could not be persisted.</param>
public sealed record DeadLetter(string LetterId, DateTimeOffset DiedAt, string Reason, QueuedWrite Write);
