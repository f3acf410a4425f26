using CachingApi.Redis;
using CachingApi.Users;
using Npgsql;

namespace CachingApi.Experiments;

/// <summary>
/// Reads users at a steady rate. It ends ten seconds after it was last requested, so it does not outlive the page that renews it.
/// </summary>
/// <remarks>
/// The keys follow Zipf's law, as requests of users often do: the n-th most popular key is read 1/n as often as the first.
/// </remarks>
internal sealed class LabLoad(UserService users, UserRepository repository, TimeProvider time, IHostApplicationLifetime lifetime)
{
    public static readonly TimeSpan Lease = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan Step = TimeSpan.FromMilliseconds(20);

    /// <summary>How many reads may wait for an answer. While as many wait, further ones are left out.</summary>
    private const int MaxWaiting = 256;

    private readonly Lock _lock = new();
    private LoadRequest? _request;
    private DateTimeOffset _until;
    private int _waiting;
    private long _reads;
    private long _failed;
    private long _leftOut;

    /// <summary>The load that runs; <c>null</c> if none does.</summary>
    public LoadState? State
    {
        get
        {
            lock (_lock)
            {
                return _request is not { } request ? null : new()
                {
                    Rate = request.Rate,
                    Keys = request.Keys,
                    Until = _until,
                    Reads = Interlocked.Read(ref _reads),
                    Failed = Interlocked.Read(ref _failed),
                    LeftOut = Interlocked.Read(ref _leftOut),
                };
            }
        }
    }

    /// <summary>Starts the load, or changes and renews the one that runs.</summary>
    public void Start(LoadRequest request)
    {
        lock (_lock)
        {
            var runs = _request is not null;
            (_request, _until) = (request, time.GetUtcNow() + Lease);
            if (!runs)
            {
                (_reads, _failed, _leftOut) = (0, 0, 0);
                _ = Task.Run(() => RunAsync(lifetime.ApplicationStopping), CancellationToken.None);
            }
        }
    }

    public void Stop()
    {
        lock (_lock)
        {
            _until = default;
        }
    }

    private async Task RunAsync(CancellationToken cancel)
    {
        try
        {
            await ReadWhileRequestedAsync(cancel);
        }
        catch
        {
            lock (_lock)
            {
                _request = null;
            }

            throw;
        }
    }

    private async Task ReadWhileRequestedAsync(CancellationToken cancel)
    {
        using var timer = new PeriodicTimer(Step, time);
        var (keys, ids, due, last) = (0, Array.Empty<Guid>(), 0.0, time.GetTimestamp());
        while (Continue(out var request))
        {
            if (request.Keys != keys)
            {
                (keys, ids) = (request.Keys, await IdsAsync(request.Keys, cancel));
            }

            var now = time.GetTimestamp();
            // After a stall, at most the reads of a second are made at once.
            due = Math.Min(due + (request.Rate * time.GetElapsedTime(last, now).TotalSeconds), request.Rate);
            last = now;
            for (; due >= 1; due--)
            {
                Begin(ids, cancel);
            }

            try
            {
                await timer.WaitForNextTickAsync(cancel);
            }
            catch (OperationCanceledException)
            {
                Stop();
            }
        }
    }

    private bool Continue(out LoadRequest request)
    {
        lock (_lock)
        {
            request = _request!;
            if (time.GetUtcNow() < _until)
            {
                return true;
            }

            _request = null;
            return false;
        }
    }

    private async Task<Guid[]> IdsAsync(int count, CancellationToken cancel)
    {
        try
        {
            return [.. await repository.NewestAsync(count, every: 1, cancel)];
        }
        catch (Exception error) when (error is NpgsqlException or OperationCanceledException)
        {
            Interlocked.Increment(ref _failed);
            return [];
        }
    }

    private void Begin(Guid[] ids, CancellationToken cancel)
    {
        if (ids.Length == 0 || Volatile.Read(ref _waiting) >= MaxWaiting)
        {
            Interlocked.Increment(ref _leftOut);
            return;
        }

        Interlocked.Increment(ref _waiting);
        _ = ReadAsync(ids[Zipf(ids.Length)], cancel);
    }

    private async Task ReadAsync(Guid id, CancellationToken cancel)
    {
        try
        {
            await users.FindAsync(id, cancel);
            Interlocked.Increment(ref _reads);
        }
        catch (Exception error) when (error is UnavailableException or NpgsqlException or TimeoutException or OperationCanceledException)
        {
            Interlocked.Increment(ref _failed);
        }
        finally
        {
            Interlocked.Decrement(ref _waiting);
        }
    }

    /// <summary>A place from 0 to <paramref name="count"/> - 1 by the inverse of the distribution's integral.</summary>
    private static int Zipf(int count) => (int)Math.Pow(count + 1, Random.Shared.NextDouble()) - 1;
}
