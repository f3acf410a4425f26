using System.Collections.Concurrent;
using System.Net;
using CachingApi.Tests.Api;
using Npgsql;

namespace CachingApi.Tests.Caching;

/// <summary>The operations of a history's callers. The checker receives every operation when it begins and when it ends.</summary>
internal sealed class HistoryWorkload(HistoryChecker checker, HistoryClock clock, IReadOnlyList<HistoryNode> nodes, string postgres)
{
    private static readonly string[] Strategies = ["write-through", "invalidate", "write-behind"];

    /// <summary>
    /// The user that SQL statements write does not use write-behind, because SQL does not acquire a fence among the pending writes.
    /// </summary>
    private const int ByHand = 2;

    private const int MaxPassing = 6;

    private readonly ConcurrentDictionary<Guid, string> _emails = new();
    private readonly List<Guid> _users = [];
    private long _contents;
    private long _reads;
    private long _writes;
    private long _queued;

    public IReadOnlyList<Guid> Users => _users;

    public long Reads => Interlocked.Read(ref _reads);

    /// <summary>The number of acknowledged writes.</summary>
    public long Writes => Interlocked.Read(ref _writes);

    /// <summary>The number of writes that were acknowledged before they were committed.</summary>
    public long Queued => Interlocked.Read(ref _queued);

    public async Task<Guid> CreateAsync(HistoryNode node)
    {
        var (number, email, content) = (node.Number, $"{Guid.NewGuid():N}@example.org", Content());
        using var answer = await node.SendAsync(
            HttpMethod.Post, "/users", new { email, displayName = content, password = ApiNode.Password });
        if (answer?.IsSuccessStatusCode != true)
        {
            return Guid.Empty;
        }

        var (id, seen) = HistoryNode.Shown(await answer.JsonAsync());
        _emails[id] = email;
        Done(checker.BeginWrite(id, content), node, number, seen.Version, queued: false);
        return id;
    }

    /// <summary>Creates the users that exist all the time.</summary>
    public async Task CreateUsersAsync(int count)
    {
        for (var user = 0; user < count; user++)
        {
            _users.Add(await CreateAsync(nodes[0]));
        }
    }

    /// <summary>A caller of one node.</summary>
    public async Task WorkAsync(Random random, HistoryNode node, bool writes, CancellationToken stop)
    {
        while (!stop.IsCancellationRequested)
        {
            var user = random.Next(_users.Count - 1); // DelayAsync uses the last one
            await (random.Next(1000) switch
            {
                < 250 when writes => UpdateAsync(node, _users[user], Strategies[random.Next(user < ByHand ? 2 : 3)]),
                < 253 when writes => UpdateByHandAsync(_users[random.Next(ByHand)]),
                < 254 when writes => node.SendAsync(HttpMethod.Delete, "/cache/namespaces/users"),
                < 350 => ListAsync(node, random.Next(2) == 0 ? 100 : 5),
                _ => ReadAsync(node, _users[user]),
            });
            await Task.Delay(random.Next(3), CancellationToken.None);
        }
    }

    /// <summary>
    /// Creates users, changes them once and deletes them again, so that lists grow and shrink and deletions meet pending writes.
    /// </summary>
    public async Task PassAsync(Random random, CancellationToken stop)
    {
        var passing = new Queue<(Guid User, bool Deleted)>();
        while (!stop.IsCancellationRequested)
        {
            var node = nodes[random.Next(nodes.Count)];
            if (await CreateAsync(node) is var created && created != Guid.Empty)
            {
                passing.Enqueue((created, false));
                await ReadAsync(nodes[random.Next(nodes.Count)], created);
            }

            if (passing.Count > MaxPassing)
            {
                var (user, deleted) = passing.Dequeue();
                if (deleted)
                {
                    checker.Forget(user);
                    _emails.TryRemove(user, out _);
                }
                else
                {
                    await UpdateAsync(nodes[random.Next(nodes.Count)], user, Strategies[random.Next(Strategies.Length)]);
                    passing.Enqueue((user, await DeleteAsync(node, user)));
                    await ReadAsync(nodes[random.Next(nodes.Count)], user);
                }
            }

            await Task.Delay(random.Next(300), CancellationToken.None);
        }
    }

    /// <summary>Updates the last user on one node and reads it on another one until it is seen there.</summary>
    /// <returns>
    /// The time from the acknowledgement to the begin of the first read that showed it; <c>null</c> if it could not be measured.
    /// </returns>
    public async Task<TimeSpan?> DelayAsync(Random random, CancellationToken stop)
    {
        var user = _users[^1];
        var from = random.Next(nodes.Count);
        var to = nodes[(from + 1 + random.Next(nodes.Count - 1)) % nodes.Count];
        await ReadAsync(to, user);
        if (await UpdateAsync(nodes[from], user, Strategies[random.Next(2)]) is not { } version)
        {
            return null;
        }

        var acknowledged = clock.Now();
        while (!stop.IsCancellationRequested)
        {
            var start = clock.Now();
            if (await ReadAsync(to, user) is not { } shown)
            {
                return null;
            }

            if (shown >= version)
            {
                return start - acknowledged;
            }
        }

        return null;
    }

    public async Task<long?> ReadAsync(HistoryNode node, Guid user)
    {
        var number = node.Number;
        var read = checker.BeginRead(number, user, clock.Now());
        var shown = await node.FindAsync(user);
        if (shown is not var (seen, cacheStatus) || node.Number != number)
        {
            return null;
        }

        Interlocked.Increment(ref _reads);
        checker.EndRead(read with { How = cacheStatus }, new Dictionary<Guid, (long, string)> { [user] = seen }, whole: true);
        return seen.Version;
    }

    private async Task ListAsync(HistoryNode node, int limit)
    {
        var after = (string?)null;
        for (var page = 0; page < 2; page++)
        {
            var number = node.Number;
            var read = checker.BeginList(number, after is null ? $"first {limit}" : HistoryChecker.AnyList, clock.Now());
            var shown = await node.ListAsync(limit, after);
            if (shown is not { } seen || node.Number != number)
            {
                return;
            }

            Interlocked.Increment(ref _reads);
            checker.EndRead(read with { How = seen.CacheStatus }, seen.Users, whole: after is null && seen.Next is null);
            after = seen.Next;
            if (after is null)
            {
                return;
            }
        }
    }

    private async Task<long?> UpdateAsync(HistoryNode node, Guid user, string strategy)
    {
        var (number, content) = (node.Number, Content());
        var write = checker.BeginWrite(user, content, behind: strategy == "write-behind");
        using var answer = await node.SendAsync(
            HttpMethod.Put, $"/users/{user}?strategy={strategy}", new { email = _emails[user], displayName = content });
        if (answer?.IsSuccessStatusCode != true || node.Number != number)
        {
            return null;
        }

        var (_, seen) = HistoryNode.Shown(await answer.JsonAsync());
        Done(write, node, number, seen.Version, queued: answer.StatusCode is HttpStatusCode.Accepted);
        return seen.Version;
    }

    private async Task<bool> DeleteAsync(HistoryNode node, Guid user)
    {
        var number = node.Number;
        var write = checker.BeginWrite(user, HistoryChecker.Gone);
        using var answer = await node.SendAsync(HttpMethod.Delete, $"/users/{user}");
        if (answer is null || node.Number != number)
        {
            return false;
        }

        Done(write, node, number, HistoryChecker.GoneVersion, queued: false);
        return true;
    }

    /// <summary>The checker ignores this write during the history, because change data capture applies it to the caches.</summary>
    private async Task UpdateByHandAsync(Guid user)
    {
        var content = Content();
        checker.BeginWrite(user, content);
        try
        {
            await using var connection = new NpgsqlConnection($"{postgres};Pooling=false");
            await connection.OpenAsync();
            await using var command = new NpgsqlCommand($"UPDATE users SET display_name = '{content}' WHERE id = '{user}'", connection);
            await command.ExecuteNonQueryAsync();
        }
        catch (NpgsqlException)
        {
            // PostgreSQL is away; it is not known whether the write took place.
        }
    }

    private void Done(HistoryWrite write, HistoryNode node, int number, long version, bool queued)
    {
        Interlocked.Increment(ref _writes);
        Interlocked.Add(ref _queued, queued ? 1 : 0);
        checker.Acknowledge(write, node.Number == number ? number : checker.AddNode(), version, queued, clock.Now());
    }

    private string Content() => $"content {Interlocked.Increment(ref _contents)}";
}
