namespace CachingApi.Sessions;

/// <summary>
/// Lets a few callers hash at once. The others wait for a bounded time, in two queues: those that are likely to be the accounts' owners
/// come first, so that a flood of guesses delays itself. After <see cref="MaxInARow"/> of them one of the others has its turn.
/// </summary>
internal sealed class HashingSlots(int slots, TimeSpan maxWait, TimeProvider time)
{
    /// <summary>How many wait in each queue at most.</summary>
    public const int MaxWaiting = 100;

    public const int MaxInARow = 3;

    private readonly Lock _lock = new();
    private readonly LinkedList<TaskCompletionSource> _preferred = new();
    private readonly LinkedList<TaskCompletionSource> _others = new();
    private int _free = slots;
    private int _inARow;

    /// <summary>Takes a slot; <c>false</c> if none is free within the bounded time.</summary>
    public async Task<bool> EnterAsync(bool preferred, CancellationToken cancel)
    {
        var queue = preferred ? _preferred : _others;
        LinkedListNode<TaskCompletionSource> turn;
        lock (_lock)
        {
            if (_free > 0)
            {
                _free--;
                return true;
            }

            if (queue.Count >= MaxWaiting)
            {
                return false;
            }

            turn = queue.AddLast(new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
        }

        try
        {
            await turn.Value.Task.WaitAsync(maxWait, time, cancel);
            return true;
        }
        catch (TimeoutException)
        {
            return !Withdraw(turn);
        }
        catch (OperationCanceledException)
        {
            if (!Withdraw(turn))
            {
                Leave();
            }

            throw;
        }
    }

    /// <summary>Passes the slot on.</summary>
    public void Leave()
    {
        lock (_lock)
        {
            var first = _inARow < MaxInARow ? _preferred.First ?? _others.First : _others.First ?? _preferred.First;
            if (first is { } next)
            {
                _inARow = next.List == _preferred ? _inARow + 1 : 0;
                next.List!.Remove(next);
                next.Value.SetResult();
            }
            else
            {
                _free++;
            }
        }
    }

    /// <summary>Ends a wait; <c>false</c> if the slot was granted at the same moment.</summary>
    private bool Withdraw(LinkedListNode<TaskCompletionSource> turn)
    {
        lock (_lock)
        {
            turn.List?.Remove(turn);
            return !turn.Value.Task.IsCompleted;
        }
    }
}
