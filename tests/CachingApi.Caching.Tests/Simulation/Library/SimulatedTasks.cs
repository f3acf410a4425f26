using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using Microsoft.Extensions.Hosting;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>Tasks and timers on the clock and the scheduler of the <see cref="World"/>.</summary>
internal static class SimulatedTasks
{
    [Replaces("System.Threading.Tasks.Task::Run(Func`1)")]
    public static Task Run(Func<Task> work) => Run(
        async () =>
        {
            await work();
            return true;
        },
        CancellationToken.None);

    [Replaces("System.Threading.Tasks.Task::Run(Func`1,CancellationToken)")]
    public static Task<T> Run<T>(Func<Task<T>> work, CancellationToken cancel)
    {
        var end = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        Node.Current.Post(_ => _ = CopyAsync(work(), end), null);
        return end.Task;
    }

    [Replaces("System.Threading.ThreadPool::UnsafeQueueUserWorkItem(IThreadPoolWorkItem,Boolean)")]
    public static bool Queue(IThreadPoolWorkItem work, bool preferLocal)
    {
        Node.Current.Post(_ => work.Execute(), null);
        return true;
    }

    [Replaces("System.Threading.Tasks.Task::Delay(TimeSpan,CancellationToken)")]
    public static Task Delay(TimeSpan time, CancellationToken cancel) =>
        WaitAsync(new TaskCompletionSource<bool>().Task, time, static end => end.TrySetResult(true), cancel);

    [Replaces("System.Threading.Tasks.Task::Delay(TimeSpan,TimeProvider,CancellationToken)")]
    public static Task Delay(TimeSpan time, TimeProvider provider, CancellationToken cancel) => Delay(time, cancel);

    [Replaces("System.Threading.Tasks.Task`1::WaitAsync(CancellationToken)")]
    public static Task<T> WaitAsync<T>(Task<T> task, CancellationToken cancel) => WaitAsync(task, Timeout.InfiniteTimeSpan, cancel);

    [Replaces("System.Threading.Tasks.Task`1::WaitAsync(TimeSpan,CancellationToken)")]
    public static Task<T> WaitAsync<T>(Task<T> task, TimeSpan timeout, CancellationToken cancel) =>
        WaitAsync(task, timeout, static end => end.TrySetException(new TimeoutException()), cancel);

    [Replaces("System.Threading.Tasks.Task::WaitAsync(CancellationToken)")]
    public static Task WaitAsync(Task task, CancellationToken cancel) => WaitAsync(ResultOf(task), cancel);

    [Replaces("System.Threading.Tasks.Task::WaitAsync(TimeSpan,CancellationToken)")]
    public static Task WaitAsync(Task task, TimeSpan timeout, CancellationToken cancel) => WaitAsync(ResultOf(task), timeout, cancel);

    [Replaces("System.Threading.Tasks.Task::WhenEach(IEnumerable`1)")]
    public static async IAsyncEnumerable<Task> WhenEach(IEnumerable<Task> tasks)
    {
        var left = tasks.ToList();
        while (left.Count > 0)
        {
            var ended = await Task.WhenAny(left);
            left.Remove(ended);
            yield return ended;
        }
    }

    [Replaces("System.Threading.Tasks.Task::ConfigureAwait(ConfigureAwaitOptions)")]
    public static ConfiguredTaskAwaitable ConfigureAwait(Task task, ConfigureAwaitOptions options) =>
        task.ConfigureAwait(options | ConfigureAwaitOptions.ContinueOnCapturedContext);

    [Replaces("System.Threading.Tasks.TaskScheduler::get_Default()")]
    public static TaskScheduler Scheduler() => TaskScheduler.FromCurrentSynchronizationContext();

    /// <remarks>The timers of a process that is killed are never disposed, and a finalizer would keep its whole world alive.</remarks>
    [Replaces("System.Threading.PeriodicTimer::.ctor(TimeSpan)")]
    [SuppressMessage("Usage", "CA1816", Justification = "It is about the timer's own finalizer.")]
    public static PeriodicTimer EveryPeriod(TimeSpan period)
    {
        var timer = new PeriodicTimer(period, Node.Current.Time);
        GC.SuppressFinalize(timer);
        return timer;
    }

    [Replaces("System.Threading.CancellationTokenSource::.ctor(TimeSpan)")]
    public static CancellationTokenSource CancelledAfter(TimeSpan time) => new(time, Node.Current.Time);

    [Replaces("System.Threading.CancellationTokenSource::CancelAfter(TimeSpan)")]
    public static void CancelAfter(CancellationTokenSource source, TimeSpan time) => Node.Current.World.After(
        time,
        Node.Current,
        "a time-out ends",
        () =>
        {
            try
            {
                source.Cancel();
            }
            catch (ObjectDisposedException)
            {
                // The bounded task has ended.
            }
        });

    [Replaces("System.Environment::get_TickCount64()")]
    public static long Milliseconds() => Node.Current.World.Micros / 1000;

    [Replaces("System.Diagnostics.Stopwatch::GetTimestamp()")]
    public static long Ticks() => Node.Current.World.Micros * (Stopwatch.Frequency / 1_000_000);

    [Replaces("System.Guid::NewGuid()")]
    public static Guid NewGuid() => Node.Current.World.NewGuid();

    [Replaces("System.Guid::CreateVersion7(DateTimeOffset)")]
    public static Guid NewGuid(DateTimeOffset timestamp) => NewGuid();

    [Replaces("System.Security.Cryptography.RandomNumberGenerator::Fill(Span`1)")]
    public static void Fill(Span<byte> data)
    {
        data.Clear();
        NewGuid().TryWriteBytes(data, bigEndian: true, out _);
    }

    [Replaces("System.Random::get_Shared()")]
    public static Random Shared() => Node.Current.World.Random;

    /// <summary>The hash codes of texts differ from process to process, and with them which entities share a stripe.</summary>
    [Replaces("System.Object::GetHashCode()")]
    public static int HashCode(object of)
    {
        if (of is not string text)
        {
            return of.GetHashCode();
        }

        var hash = 17;
        foreach (var letter in text)
        {
            hash = unchecked((hash * 31) + letter);
        }

        return hash;
    }

    /// <summary>
    /// The end of a task, or of the time. The continuation is posted to the context of the node, as after every other wait.
    /// </summary>
    public static Task<T> WaitAsync<T>(
        Task<T> task, TimeSpan timeout, Action<TaskCompletionSource<T>> timedOut, CancellationToken cancel)
    {
        if (task.IsCompleted || (timeout == Timeout.InfiniteTimeSpan && !cancel.CanBeCanceled))
        {
            return task;
        }

        if (cancel.IsCancellationRequested)
        {
            return Task.FromCanceled<T>(cancel);
        }

        var end = new TaskCompletionSource<T>();
        var timer = timeout == Timeout.InfiniteTimeSpan
            ? null
            : Node.Current.World.After(timeout, Node.Current, "a time-out ends", () => timedOut(end));
        var registration = cancel.UnsafeRegister(static (end, token) => ((TaskCompletionSource<T>)end!).TrySetCanceled(token), end);
        task.GetAwaiter().UnsafeOnCompleted(() =>
        {
            timer?.Cancel();
            registration.Unregister();
            _ = task.IsCompletedSuccessfully ? end.TrySetResult(task.Result)
                : task.IsCanceled ? end.TrySetCanceled(CancellationToken.None)
                : end.TrySetException(task.Exception!.InnerExceptions);
        });
        return end.Task;
    }

    private static async Task<bool> ResultOf(Task task)
    {
        await task;
        return true;
    }

    private static async Task CopyAsync<T>(Task<T> task, TaskCompletionSource<T> end)
    {
        try
        {
            end.TrySetResult(await task);
        }
        catch (OperationCanceledException cancelled)
        {
            end.TrySetCanceled(cancelled.CancellationToken);
        }
#pragma warning disable CA1031 // Every failure is the task's.
        catch (Exception error)
#pragma warning restore CA1031
        {
            end.TrySetException(error);
        }
    }
}

/// <summary>A timer on the clock of the world.</summary>
[StandsFor("System.Threading.Timer")]
internal sealed class SimulatedTimer : ITimer
{
    private readonly Node _node;
    private readonly TimerCallback _callback;
    private readonly object? _state;
    private Gate? _next;
    private TimeSpan _period;

    public SimulatedTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        (_node, _callback, _state) = (Node.Current, callback, state);
        Change(dueTime, period);
    }

    public bool Change(TimeSpan dueTime, TimeSpan period)
    {
        _next?.Cancel();
        _period = period;
        _next = dueTime == Timeout.InfiniteTimeSpan ? null : _node.World.After(dueTime, _node, "a timer ticks", Tick);
        return true;
    }

    public void Dispose() => _next?.Cancel();

    public ValueTask DisposeAsync()
    {
        Dispose();
        return default;
    }

    private void Tick()
    {
        if (_period > TimeSpan.Zero)
        {
            _next = _node.World.After(_period, _node, "a timer ticks", Tick);
        }

        _callback(_state);
    }
}

/// <summary>A semaphore whose waits end on the clock of the world.</summary>
[StandsFor("System.Threading.SemaphoreSlim")]
internal sealed class SimulatedSemaphore(int initialCount, int maxCount) : IDisposable
{
    private readonly Queue<TaskCompletionSource<bool>> _waiting = new();

    public int CurrentCount { get; private set; } = initialCount;

    public int Release()
    {
        if (CurrentCount == maxCount)
        {
            throw new SemaphoreFullException();
        }

        while (_waiting.TryDequeue(out var next))
        {
            if (next.TrySetResult(true))
            {
                return CurrentCount;
            }
        }

        return CurrentCount++;
    }

    public async Task<bool> WaitAsync(TimeSpan timeout, CancellationToken cancel)
    {
        if (CurrentCount > 0)
        {
            CurrentCount--;
            return true;
        }

        var entered = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
        _waiting.Enqueue(entered);
        return await SimulatedTasks.WaitAsync(entered.Task, timeout, static end => end.TrySetResult(false), cancel)
            || !entered.TrySetResult(false);
    }

    public void Dispose()
    {
        // It holds nothing.
    }
}

/// <summary>A service of the host, which begins its work on the scheduler of the world.</summary>
[StandsFor("Microsoft.Extensions.Hosting.BackgroundService")]
internal abstract class SimulatedService : IHostedService, IDisposable
{
    private readonly CancellationTokenSource _stop = new();
    private Task _work = Task.CompletedTask;

    public virtual Task StartAsync(CancellationToken cancellationToken)
    {
        _work = SimulatedTasks.Run(() => ExecuteAsync(_stop.Token));
        return Task.CompletedTask;
    }

    public virtual async Task StopAsync(CancellationToken cancellationToken)
    {
        _stop.Cancel();
        await _work;
    }

    public virtual void Dispose() => GC.SuppressFinalize(this);

    protected abstract Task ExecuteAsync(CancellationToken stoppingToken);
}
