using System.Collections.Concurrent;
using System.Diagnostics;

namespace CachingApi.Lab;

/// <summary>One measured call: when it began, in seconds from the start of the load, and how long it took.</summary>
internal readonly record struct Sample(double At, double Milliseconds);

/// <summary>Callers, and the time of each of their calls.</summary>
internal sealed class Load
{
    private readonly ConcurrentQueue<Sample> _samples = new();
    private readonly TimeSpan _duration;
    private int _failed;

    private Load(TimeSpan duration) => _duration = duration;

    /// <summary>When the load began.</summary>
    public long Start { get; } = Stopwatch.GetTimestamp();

    public IReadOnlyList<Sample> Samples => [.. _samples];

    /// <summary>How many calls failed; they are not among the samples.</summary>
    public int Failed => _failed;

    /// <summary>Callers that each pause after a call, and begin at different times.</summary>
    public static async Task<Load> ClosedAsync(
        int callers, TimeSpan pause, TimeSpan duration, int seed, Func<int, Random, Task> call, CancellationToken cancel)
    {
        var load = new Load(duration);
        await Task.WhenAll(Enumerable.Range(0, callers).Select(caller => Task.Run(
            async () =>
            {
                var random = new Random(seed + caller);
                await Task.Delay(pause * random.NextDouble(), cancel);
                while (Stopwatch.GetElapsedTime(load.Start) < duration)
                {
                    await load.MeasureAsync(() => call(caller, random));
                    if (pause > TimeSpan.Zero)
                    {
                        await Task.Delay(pause, cancel);
                    }
                }
            },
            cancel)));
        return load;
    }

    /// <summary>Calls at a rate, however long they take: a slow call does not keep the next one from beginning.</summary>
    /// <param name="rate">Calls per second at a time in seconds.</param>
    /// <param name="call">Its argument is the time at which it begins, in seconds.</param>
    public static async Task<Load> OpenAsync(
        Func<double, double> rate, TimeSpan duration, Func<double, Task> call, CancellationToken cancel)
    {
        var load = new Load(duration);
        var (calls, begun, due) = (new ConcurrentQueue<Task>(), 0, 0.0);
        for (var last = load.Now; last < duration.TotalSeconds;)
        {
            await Task.Delay(5, cancel);
            var now = load.Now;
            due += rate(now) * (now - last);
            for (; begun < due; begun++)
            {
                calls.Enqueue(Task.Run(() => load.MeasureAsync(() => call(load.Now)), cancel));
            }

            last = now;
        }

        await Task.WhenAll(calls);
        return load;
    }

    /// <summary>One value for each interval in which calls began; intervals without calls are left out.</summary>
    public IReadOnlyList<(double At, double Value)> Every(double seconds, Func<IReadOnlyList<double>, double> value) =>
    [
        .. _samples.GroupBy(sample => (int)(sample.At / seconds))
            .Where(interval => interval.Key * seconds < _duration.TotalSeconds)
            .OrderBy(interval => interval.Key)
            .Select(interval => (interval.Key * seconds, value([.. interval.Select(sample => sample.Milliseconds)]))),
    ];

    /// <summary>How many of these moments were in each interval.</summary>
    public IReadOnlyList<(double At, double Value)> CountEvery(double seconds, IEnumerable<long> times)
    {
        var counts = new double[(int)Math.Ceiling(_duration.TotalSeconds / seconds)];
        foreach (var time in times)
        {
            var interval = (int)(Stopwatch.GetElapsedTime(Start, time).TotalSeconds / seconds);
            if (time >= Start && interval < counts.Length)
            {
                counts[interval]++;
            }
        }

        return [.. counts.Select((count, interval) => (interval * seconds, count))];
    }

    private double Now => Stopwatch.GetElapsedTime(Start).TotalSeconds;

    private async Task MeasureAsync(Func<Task> call)
    {
        var began = Stopwatch.GetTimestamp();
        try
        {
            await call();
        }
        catch (CallFailedException)
        {
            Interlocked.Increment(ref _failed);
            return;
        }

        _samples.Enqueue(new(Stopwatch.GetElapsedTime(Start, began).TotalSeconds, Stopwatch.GetElapsedTime(began).TotalMilliseconds));
    }
}

/// <summary>A call that failed as the experiment expects, because a server is away.</summary>
internal sealed class CallFailedException(Exception cause) : Exception(cause.Message, cause);

/// <summary>Figures of a list of numbers.</summary>
internal static class Figures
{
    /// <summary>The value below which this part of the values lies; 0 if there are none.</summary>
    public static double Percentile(this IReadOnlyCollection<double> values, double part) =>
        values.Count == 0 ? 0 : values.Order().ElementAt(Math.Min(values.Count - 1, (int)(values.Count * part)));

    public static IReadOnlyList<(double At, double Value)> Cumulated(this IReadOnlyList<(double At, double Value)> points)
    {
        var sum = 0.0;
        return [.. points.Select(point => (point.At, sum += point.Value))];
    }
}
