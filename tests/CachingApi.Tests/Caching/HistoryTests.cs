using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Tests.Caching;

/// <summary>
/// A randomised history: writers and readers on two nodes while faults strike, every operation recorded with its start and
/// end, and the promises checked over the whole afterwards. CACHINGAPI_SEED replays a run's decisions, CACHINGAPI_SOAK_SECONDS
/// makes it longer (./dev soak).
/// </summary>
public sealed class HistoryTests(TestServers servers, ITestOutputHelper output)
{
    private const int Nodes = 2;
    private const int Things = 8;

    /// <summary>Another process may be that much behind: a second without the backplane, and what a busy machine adds.</summary>
    private static readonly TimeSpan Lag = TimeSpan.FromSeconds(2);

    [Fact]
    public async Task No_read_is_older_than_what_was_acknowledged_or_shown_before()
    {
        var seed = Setting("CACHINGAPI_SEED") ?? Random.Shared.Next();
        var duration = TimeSpan.FromSeconds(Setting("CACHINGAPI_SOAK_SECONDS") ?? 12);
        output.WriteLine($"seed {seed}");

        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var first = await ApiNode.StartAsync(servers, Settings(redis.ConnectionString));
        await using var second = await ApiNode.StartAsync(servers, Settings(proxy.ConnectionString), nodeOf: first);
        var nodes = new[] { first, second };
        await MemoryTierTests.TrustedAsync(nodes);
        var users = new List<User>();
        for (var thing = 0; thing < Things; thing++)
        {
            users.Add(await first.CreateUserAsync());
        }

        var history = new ConcurrentQueue<Operation>();
        using var stop = new CancellationTokenSource(duration);
        var work = Enumerable.Range(0, 12).Select(worker => WorkAsync(
            new Random(seed + worker), nodes[worker % Nodes].Services.GetRequiredService<UserService>(), worker % Nodes, users, writes: worker < 4, history, stop.Token));
        await Task.WhenAll([.. work, FaultsAsync(new Random(seed - 1), redis, proxy, stop.Token)]);

        output.WriteLine($"{history.Count(operation => operation.Write)} writes, {history.Count(operation => !operation.Write)} reads");
        var violations = Violations(history).ToArray();
        Assert.True(violations.Length == 0, $"seed {seed}, {violations.Length} violations:\n{string.Join('\n', violations.Take(5))}");
    }

    [Fact]
    public void The_checker_finds_what_it_is_there_to_find()
    {
        static Operation Read(int node, double start, double end, long version) => new(node, 0, false, version, Seconds(start), Seconds(end));
        static Operation Write(int node, double start, double end, long version) => new(node, 0, true, version, Seconds(start), Seconds(end));

        Assert.Empty(Violations([Write(0, 0, 1, 2), Read(0, 0.5, 1.5, 1), Read(0, 2, 3, 2), Read(1, 2, 2.5, 1), Read(1, 3.5, 4, 2)]));
        Assert.Single(Violations([Write(0, 0, 1, 2), Read(0, 1.1, 1.2, 1)]));
        Assert.Single(Violations([Write(0, 0, 1, 2), Read(1, 3.1, 3.2, 1)]));
        Assert.Single(Violations([Read(0, 0, 1, 2), Read(0, 1.1, 1.2, 1)]));
    }

    /// <summary>
    /// Each read against the newest version that it must have seen: of the writes acknowledged on its own node before it began,
    /// of those on other nodes a lag before that, and of the reads that had ended on its own node.
    /// </summary>
    private static IEnumerable<string> Violations(IEnumerable<Operation> history)
    {
        foreach (var thing in history.GroupBy(operation => operation.Thing))
        {
            foreach (var reads in thing.Where(operation => !operation.Write).GroupBy(operation => operation.Node))
            {
                var known = thing
                    .Where(operation => operation.Write || operation.Node == reads.Key)
                    .Select(operation => (Since: operation.End + (operation.Node == reads.Key ? 0 : Ticks(Lag)), Operation: operation))
                    .OrderBy(entry => entry.Since)
                    .ToArray();
                var (next, newest) = (0, (Operation?)null);
                foreach (var read in reads.OrderBy(read => read.Start))
                {
                    for (; next < known.Length && known[next].Since < read.Start; next++)
                    {
                        newest = known[next].Operation.Version > (newest?.Version ?? 0) ? known[next].Operation : newest;
                    }

                    if (newest?.Version > read.Version)
                    {
                        yield return $"{read} began after {newest} had ended";
                    }
                }
            }
        }
    }

    private static async Task WorkAsync(
        Random random, UserService service, int node, List<User> users, bool writes, ConcurrentQueue<Operation> history, CancellationToken stop)
    {
        while (!stop.IsCancellationRequested)
        {
            var thing = random.Next(users.Count);
            var user = users[thing];
            var write = writes && random.Next(4) == 0;
            var start = Stopwatch.GetTimestamp();
            if (write)
            {
                var strategy = (WriteStrategy)random.Next(3);
                var updated = await service.UpdateAsync(user.Id, new() { Email = user.Email, DisplayName = $"{start}" }, null, strategy);
                history.Enqueue(new(node, thing, write, updated.User!.Version, start, Stopwatch.GetTimestamp(), $"{strategy}"));
            }
            else
            {
                var found = await service.FindAsync(user.Id, CancellationToken.None);
                history.Enqueue(new(node, thing, write, found.Entry.Version, start, Stopwatch.GetTimestamp(), $"{found.Outcome}{(found.Collapsed ? ", collapsed" : "")}"));
            }

            await Task.Delay(random.Next(3), CancellationToken.None);
        }
    }

    private async Task FaultsAsync(Random random, RedisServer redis, FaultProxy proxy, CancellationToken stop)
    {
        while (!stop.IsCancellationRequested)
        {
            await Task.Delay(random.Next(200, 1500), CancellationToken.None);
            var lasting = TimeSpan.FromMilliseconds(random.Next(20, 1500));
            switch (random.Next(4))
            {
                case 0:
                    output.WriteLine($"frozen for {lasting}");
                    await redis.PauseAsync();
                    await Task.Delay(lasting, CancellationToken.None);
                    await redis.ResumeAsync();
                    break;
                case 1:
                    output.WriteLine($"killed for {lasting}");
                    await redis.KillAsync();
                    await Task.Delay(lasting, CancellationToken.None);
                    await redis.StartAgainAsync();
                    break;
                case 2:
                    output.WriteLine("flushed");
                    await using (var connection = await StackExchange.Redis.ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true"))
                    {
                        await connection.GetServers()[0].FlushAllDatabasesAsync();
                    }

                    break;
                default:
                    output.WriteLine($"second node cut off for {lasting}");
                    proxy.Cut();
                    await Task.Delay(lasting, CancellationToken.None);
                    proxy.Mend();
                    break;
            }
        }
    }

    private Dictionary<string, string> Settings(string redis) => new()
    {
        ["ConnectionStrings:Redis"] = redis,
        ["ConnectionStrings:RedisState"] = servers.Redis,
        ["Database:ChangeCapture"] = "true",
        ["Cache:RedisDeadline"] = "00:00:00.050",
        ["Cache:Users:MemoryTtl"] = "00:01:00",
        ["Cache:Users:Ttl"] = "00:00:02",
        ["Cache:Users:StaleFor"] = "00:00:00",
    };

    private static int? Setting(string name) =>
        int.TryParse(Environment.GetEnvironmentVariable(name), CultureInfo.InvariantCulture, out var value) ? value : null;

    private static long Seconds(double seconds) => Ticks(TimeSpan.FromSeconds(seconds));

    private static long Ticks(TimeSpan time) => (long)(time.TotalSeconds * Stopwatch.Frequency);

    private sealed record Operation(int Node, int Thing, bool Write, long Version, long Start, long End, string How = "");
}
