using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;

namespace CachingApi.Lab;

/// <summary>
/// Measures the trade-offs of caching on real servers, and draws them: <c>./dev lab</c>, or one experiment:
/// <c>./dev lab stampede --seed 7</c>.
/// </summary>
internal static class Program
{
    public static async Task<int> Main(string[] args)
    {
        // Ctrl-C and ./dev end the experiment, so that its servers and its database are removed.
        using var stop = new CancellationTokenSource();
        using var terminated = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Cancel);
        using var interrupted = PosixSignalRegistration.Create(PosixSignal.SIGINT, Cancel);
        void Cancel(PosixSignalContext signal)
        {
            signal.Cancel = true;
            stop.Cancel();
        }

        if (!TryParse(args, out var name, out var seed))
        {
            var names = string.Join(", ", Experiment.All.Select(experiment => experiment.Name));
            await Console.Error.WriteLineAsync($"./dev lab [NAME] [--seed N], and NAME is one of: {names}");
            return 2;
        }

        try
        {
            await RunAsync([.. Experiment.All.Where(experiment => name is null || experiment.Name == name)], seed, stop.Token);
            return 0;
        }
        catch (OperationCanceledException) when (stop.IsCancellationRequested)
        {
            return 130;
        }
    }

    private static async Task RunAsync(Experiment[] experiments, int seed, CancellationToken cancel)
    {
        var began = Stopwatch.GetTimestamp();
        Console.WriteLine($"Seed {seed}");
        await using var lab = await Lab.StartAsync(Connection("Postgres"), Connection("Redis"), Connection("RedisState"), seed, cancel);
        foreach (var (index, experiment) in experiments.Index())
        {
            Lab.Say($"{index + 1} of {experiments.Length}: {experiment.Name} ({Stopwatch.GetElapsedTime(began).TotalSeconds:N0} s so far)");
            var start = Stopwatch.GetTimestamp();
            var report = await experiment.RunAsync(lab, cancel);
            var conditions = new Conditions(seed, Stopwatch.GetElapsedTime(start), TimeProvider.System.GetUtcNow());
            LabPage.Write(Directory.GetCurrentDirectory(), experiment, report, conditions);
            Console.WriteLine($"{experiment.Title}. {report.Seen}");
        }

        Console.WriteLine(
            $"{Stopwatch.GetElapsedTime(began).TotalSeconds:N0} s with seed {seed}. See docs/lab.md, docs/lab/ and artifacts/lab.html.");
    }

    private static bool TryParse(string[] args, out string? name, out int seed)
    {
        (name, seed) = (null, Random.Shared.Next(1, 10_000));
        for (var index = 0; index < args.Length; index++)
        {
            if (args[index] == "--seed")
            {
                if (++index == args.Length || !int.TryParse(args[index], NumberStyles.None, CultureInfo.InvariantCulture, out seed))
                {
                    return false;
                }
            }
            else if (name is null && Experiment.All.Any(experiment => experiment.Name == args[index]))
            {
                name = args[index];
            }
            else
            {
                return false;
            }
        }

        return true;
    }

    private static string Connection(string server) => Environment.GetEnvironmentVariable($"ConnectionStrings__{server}")
        ?? throw new InvalidOperationException($"ConnectionStrings__{server} is not set: use ./dev lab.");
}
