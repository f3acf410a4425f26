using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using CachingApi.Caching;
using CachingApi.Storage;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace CachingApi.Tests.Users;

/// <summary>
/// A randomised history of writes by all strategies and deletions, on two nodes, while the database stalls and the Redis that
/// holds the queue is killed; every operation is recorded, and what must hold of them is checked afterwards. CACHINGAPI_SEED
/// replays a run's decisions, CACHINGAPI_SOAK_SECONDS makes it longer (./dev soak).
/// </summary>
public sealed class WriteHistoryTests(TestServers servers, ITestOutputHelper output)
{
    private const int Users = 6;

    /// <summary>The last ones are deleted some time.</summary>
    private const int Kept = 4;

    [Fact]
    public async Task The_last_acknowledged_write_of_each_user_is_the_one_that_stays()
    {
        var seed = Setting("CACHINGAPI_SEED") ?? Random.Shared.Next();
        var duration = TimeSpan.FromSeconds(Setting("CACHINGAPI_SOAK_SECONDS") ?? 8);
        output.WriteLine($"seed {seed}");

        // Every write is on disk before it is answered: what the queue has acknowledged survives a SIGKILL.
        await using var state = await RedisServer.StartAsync("--appendonly", "yes", "--appendfsync", "always");
        var settings = new Dictionary<string, string>
        {
            ["ConnectionStrings:RedisState"] = state.ConnectionString,
            ["WriteBehind:Capacity"] = "40",
            ["WriteBehind:BatchSize"] = "10",
            ["Redis:StateDeadline"] = "00:00:00.500",
        };
        await using var first = await ApiNode.StartAsync(servers, settings);
        await using var second = await ApiNode.StartAsync(servers, settings, nodeOf: first);
        var users = new List<User>();
        for (var i = 0; i < Users; i++)
        {
            users.Add(await first.CreateUserAsync());
        }

        var history = new ConcurrentQueue<Operation>();
        using (var stop = new CancellationTokenSource(duration))
        {
            var work = Enumerable.Range(0, 8).Select(worker => WorkAsync(
                new Random(seed + worker), (worker % 2 == 0 ? first : second).Services.GetRequiredService<UserService>(), worker % 2, users, history, stop.Token));
            await Task.WhenAll([.. work, FaultsAsync(new Random(seed - 1), first, state, stop.Token)]);
        }

        await Eventually.TrueAsync(() => QueueIsEmptyAsync(first), "the queue to be empty");
        foreach (var kind in history.GroupBy(operation => (operation.Kind, operation.Outcome)))
        {
            output.WriteLine($"{kind.Key}: {kind.Count()}");
        }

        Assert.Contains(history, operation => operation is { Kind: Kind.WriteBehind, Outcome: UserWrite.Accepted });
        var rows = new Dictionary<int, (string Name, long Version)>();
        for (var user = 0; user < Users; user++)
        {
            if (await first.SqlAsync<string[]>($"SELECT ARRAY[display_name, version::text] FROM users WHERE id = '{users[user].Id}'") is { } row)
            {
                rows[user] = (row[0], long.Parse(row[1], CultureInfo.InvariantCulture));
            }
        }

        var violations = Violations(history, rows).ToArray();
        Assert.True(violations.Length == 0, $"seed {seed}, {violations.Length} violations:\n{string.Join('\n', violations.Take(5))}");

        // And so do both nodes say.
        foreach (var node in new[] { first, second })
        {
            foreach (var (user, row) in rows)
            {
                await Eventually.TrueAsync(async () => await VersionAsync(node, users[user].Id) == row.Version, $"user {user} to be shown in version {row.Version}");
            }
        }
    }

    [Fact]
    public void The_checker_finds_what_it_is_there_to_find()
    {
        static Operation Write(double start, double end, long version, string name) => new(0, 0, Kind.WriteBehind, UserWrite.Accepted, version, name, (long)(start * 10), (long)(end * 10));
        static Operation Read(double start, double end, long version, string name) => new(0, 0, Kind.Read, UserWrite.Done, version, name, (long)(start * 10), (long)(end * 10));
        static string[] Check(Operation[] history, string name, long version) => [.. Violations(history, new() { [0] = (name, version) })];

        Assert.Empty(Check([Write(0, 1, 2, "a"), Write(0, 1, 3, "b"), Read(2, 3, 3, "b")], "b", 3));
        Assert.Single(Check([Write(0, 1, 2, "a"), Write(2, 3, 3, "b")], "a", 2));
        Assert.Single(Check([Write(0, 1, 2, "a"), Write(2, 3, 3, "b")], "a", 3));
        Assert.Single(Check([Write(0, 1, 3, "a"), Write(2, 3, 2, "b")], "a", 3));
        Assert.Single(Check([Write(0, 1, 2, "a"), Read(2, 3, 2, "b")], "a", 2));
        Assert.Single(Check([Write(0, 1, 2, "a"), Read(2, 3, 1, "z")], "a", 2));
        Assert.Single(Check([Write(0, 1, 2, "a"), new(0, 0, Kind.Delete, UserWrite.Done, 0, "", 20, 30)], "a", 2));
        Assert.Single(Violations([Write(0, 1, 2, "a")], []));
    }

    private static IEnumerable<string> Violations(IEnumerable<Operation> history, Dictionary<int, (string Name, long Version)> rows)
    {
        foreach (var user in history.GroupBy(operation => operation.User))
        {
            var deleted = user.Any(operation => operation is { Kind: Kind.Delete, Outcome: UserWrite.Done });
            var writes = user.Where(operation => operation.Kind is not (Kind.Read or Kind.Delete) && operation.Outcome is UserWrite.Accepted or UserWrite.Done).ToArray();

            // One version is one value, to whoever wrote or read it.
            foreach (var version in user.Where(operation => operation.Version > 0).GroupBy(operation => operation.Version))
            {
                if (version.Select(operation => operation.Name).Distinct().Count() > 1)
                {
                    yield return $"version {version.Key} of user {user.Key} was shown with several values: {string.Join("; ", version)}";
                }
            }

            // A write, and on its own node a read, that begins after a write was acknowledged has a later version, or the same.
            foreach (var write in writes)
            {
                var after = user.Where(operation => operation.Start > write.End && operation.Version > 0);
                foreach (var later in after.Where(other => other.Kind is Kind.Read ? other.Node == write.Node && other.Version < write.Version : other.Version <= write.Version))
                {
                    yield return $"{later} began after {write} had been acknowledged";
                }
            }

            if (!rows.TryGetValue(user.Key, out var row))
            {
                if (!deleted && user.All(operation => operation.Kind is not Kind.Delete))
                {
                    yield return $"user {user.Key} is gone, and nobody deleted it";
                }
            }
            else if (deleted)
            {
                yield return $"user {user.Key} was deleted and is there";
            }
            else if (writes.MaxBy(write => write.Version) is { } last && (row.Version < last.Version || (row.Version == last.Version && row.Name != last.Name)))
            {
                yield return $"the row is {row}, the last acknowledged write was {last}";
            }
        }
    }

    private static async Task WorkAsync(
        Random random, UserService service, int node, List<User> users, ConcurrentQueue<Operation> history, CancellationToken stop)
    {
        while (!stop.IsCancellationRequested)
        {
            var user = random.Next(users.Count);
            var kind = random.Next(100) switch
            {
                < 40 => Kind.WriteBehind,
                < 55 => Kind.WriteThrough,
                < 70 => Kind.Invalidate,
                < 71 when user >= Kept && random.Next(4) == 0 => Kind.Delete,
                _ => Kind.Read,
            };
            var start = Stopwatch.GetTimestamp();
            var operation = new Operation(node, user, kind, null, 0, "", start, 0);
            try
            {
                operation = await DoAsync(service, users[user], operation);
            }
            catch (UnavailableException)
            {
                // Whether it took place is not known.
            }

            history.Enqueue(operation with { End = Stopwatch.GetTimestamp() });
            await Task.Delay(random.Next(4), CancellationToken.None);
        }
    }

    private static async Task<Operation> DoAsync(UserService service, User user, Operation operation)
    {
        switch (operation.Kind)
        {
            case Kind.Read:
                var found = await service.FindAsync(user.Id, CancellationToken.None);
                return found.Found ? operation with { Outcome = UserWrite.Done, Version = found.Entry.Version, Name = NameIn(found.Entry) } : operation;
            case Kind.Delete:
                return operation with { Outcome = await service.DeleteAsync(user.Id) ? UserWrite.Done : UserWrite.NotFound };
            default:
                var change = new UpdateUser { Email = user.Email, DisplayName = $"{operation.Start}" };
                var (outcome, updated) = await service.UpdateAsync(user.Id, change, null, Enum.Parse<WriteStrategy>($"{operation.Kind}"));
                return operation with { Outcome = outcome, Version = updated?.Version ?? 0, Name = change.DisplayName };
        }
    }

    private async Task FaultsAsync(Random random, ApiNode node, RedisServer state, CancellationToken stop)
    {
        while (!stop.IsCancellationRequested)
        {
            await Task.Delay(random.Next(100, 800), CancellationToken.None);
            var lasting = TimeSpan.FromMilliseconds(random.Next(20, 400));
            switch (random.Next(4))
            {
                case 0:
                    output.WriteLine($"Redis killed for {lasting}");
                    await state.KillAsync();
                    await Task.Delay(lasting, CancellationToken.None);
                    await state.StartAgainAsync();
                    break;
                case 1:
                    output.WriteLine($"Redis frozen for {lasting}");
                    await state.PauseAsync();
                    await Task.Delay(lasting, CancellationToken.None);
                    await state.ResumeAsync();
                    break;
                default:
                    output.WriteLine($"writes held for {lasting}");
                    await using (var connection = new NpgsqlConnection(node.Database))
                    {
                        await connection.OpenAsync(CancellationToken.None);
                        await using var command = new NpgsqlCommand("BEGIN; LOCK TABLE users IN EXCLUSIVE MODE", connection);
                        await command.ExecuteNonQueryAsync(CancellationToken.None);
                        await Task.Delay(lasting, CancellationToken.None);
                    }

                    break;
            }
        }
    }

    private static async Task<bool> QueueIsEmptyAsync(ApiNode node)
    {
        try
        {
            return (await node.Services.GetRequiredService<WriteBehindQueue>().StateAsync(CancellationToken.None)).Length == 0;
        }
        catch (UnavailableException)
        {
            return false;
        }
    }

    private static async Task<long> VersionAsync(ApiNode node, Guid user)
    {
        try
        {
            return (await node.Services.GetRequiredService<UserService>().FindAsync(user, CancellationToken.None)).Entry.Version;
        }
        catch (UnavailableException)
        {
            return 0;
        }
    }

    private static string NameIn(CacheEntry entry) =>
        System.Text.Json.JsonDocument.Parse(entry.Body).RootElement.GetProperty("displayName").GetString()!;

    private static int? Setting(string name) =>
        int.TryParse(Environment.GetEnvironmentVariable(name), CultureInfo.InvariantCulture, out var value) ? value : null;

    private enum Kind
    {
        Read,
        WriteBehind,
        WriteThrough,
        Invalidate,
        Delete,
    }

    /// <param name="Outcome"><c>null</c> where it is not known.</param>
    private sealed record Operation(int Node, int User, Kind Kind, UserWrite? Outcome, long Version, string Name, long Start, long End);
}
