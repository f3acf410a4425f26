namespace CachingApi.Sessions;

/// <summary>
/// Limits how many callers hash at once. The others wait for a bounded time in two queues. Callers that are probably the accounts' owners
/// come first, so that a flood of guesses mostly delays the guesses; after <see cref="MaxInARow"/> of them, one of the others has its turn.
/// In each queue the networks take turns, so that a network with many accounts mostly delays its own requests.
/// </summary>
internal sealed class HashingSlots(int slots, TimeSpan maxWait, TimeProvider time)
{
    /// <summary>The maximum number of waiting callers in each queue, and of one network in it.</summary>
    public const int MaxWaiting = 100, MaxWaitingOfOne = 10;

    public const int MaxInARow = 3;

    private readonly Lock _lock = new();
    private readonly FairQueue _preferred = new();
    private readonly FairQueue _others = new();
    private int _free = slots;
    private int _inARow;

    /// <summary>Takes a slot; <c>false</c> if none is free within the bounded time.</summary>
    /// <param name="network">The caller's network.</param>
    public async Task<bool> EnterAsync(bool preferred, string network, CancellationToken cancel)
    {
        var queue = preferred ? _preferred : _others;
        LinkedListNode<TaskCompletionSource>? turn;
        lock (_lock)
        {
            if (_free > 0)
            {
                _free--;
                return true;
            }

            turn = queue.Add(network);
        }

        if (turn is null)
        {
            return false;
        }

        try
        {
            await turn.Value.Task.WaitAsync(maxWait, time, cancel);
            return true;
        }
        catch (TimeoutException)
        {
            return !Withdraw(queue, network, turn);
        }
        catch (OperationCanceledException)
        {
            if (!Withdraw(queue, network, turn))
            {
                Leave();
            }

            throw;
        }
    }

    /// <summary>Passes the slot to the next caller, or frees it.</summary>
    public void Leave()
    {
        lock (_lock)
        {
            var first = _preferred.Count > 0 && (_inARow < MaxInARow || _others.Count == 0) ? _preferred : _others;
            if (first.Count == 0)
            {
                _free++;
                return;
            }

            _inARow = first == _preferred ? _inARow + 1 : 0;
            first.Next().SetResult();
        }
    }

    /// <summary>Ends a wait; <c>false</c> if the slot was granted at the same moment.</summary>
    private bool Withdraw(FairQueue queue, string network, LinkedListNode<TaskCompletionSource> turn)
    {
        lock (_lock)
        {
            queue.Remove(network, turn);
            return !turn.Value.Task.IsCompleted;
        }
    }

    /// <summary>Callers in the order of their networks' turns; callers of one network in the order of their arrival.</summary>
    private sealed class FairQueue
    {
        private readonly Dictionary<string, LinkedList<TaskCompletionSource>> _waiting = [];
        private readonly LinkedList<string> _turns = new();

        public int Count { get; private set; }

        /// <summary>Adds a caller; <c>null</c> if too many wait.</summary>
        public LinkedListNode<TaskCompletionSource>? Add(string network)
        {
            if (!_waiting.TryGetValue(network, out var callers))
            {
                callers = new();
            }

            if (Count >= MaxWaiting || callers.Count >= MaxWaitingOfOne)
            {
                return null;
            }

            if (callers.Count == 0)
            {
                _waiting[network] = callers;
                _turns.AddLast(network);
            }

            Count++;
            return callers.AddLast(new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
        }

        /// <summary>Removes and returns the next caller.</summary>
        public TaskCompletionSource Next()
        {
            var network = _turns.First!.Value;
            var first = _waiting[network].First!;
            Remove(network, first);
            if (_turns.First is { } turn && turn.Value == network)
            {
                _turns.RemoveFirst();
                _turns.AddLast(turn);
            }

            return first.Value;
        }

        public void Remove(string network, LinkedListNode<TaskCompletionSource> caller)
        {
            if (caller.List is not { } callers)
            {
                return; // it has had its turn
            }

            callers.Remove(caller);
            Count--;
            if (callers.Count == 0)
            {
                _waiting.Remove(network);
                _turns.Remove(network);
            }
        }
    }
}
