using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Npgsql;

namespace CachingApi.Tests.Caching;

/// <summary>
/// One history: three nodes, one of them a separate process, callers and faults; it fails if a promise was broken.
/// CACHINGAPI_SEED replays a run's decisions, CACHINGAPI_SOAK_SECONDS makes it longer.
/// </summary>
internal sealed class HistoryRun(TestServers servers, ITestOutputHelper output)
{
    private const int Users = 8;
    private const int Callers = 12;

    /// <summary>
    /// How far another process may be behind: the promised second, and a tenth because two processes read their clocks before or after the
    /// measured operations. Stalls of the machine are not in <see cref="HistoryClock"/>'s time.
    /// </summary>
    private static readonly TimeSpan Lag = TimeSpan.FromSeconds(1.1);

    /// <summary>How long the callers go on after the last fault.</summary>
    private static readonly TimeSpan Rest = TimeSpan.FromSeconds(3);

    /// <summary>The number of measurements that suffice for the 99th percentile.</summary>
    public const int EnoughDelays = 200;

    public static bool IsSoak => Setting("CACHINGAPI_SOAK_SECONDS") is not null;

    public required TimeSpan Duration { get; init; }

    /// <summary>Whether the state server keeps acknowledged writes even over a SIGKILL: then no write may be lost.</summary>
    public bool KeepsState { get; init; }

    /// <summary>Settings in addition to those of every history.</summary>
    public Dictionary<string, string> Settings { get; init; } = [];

    public IReadOnlyList<HistoryNode> Nodes { get; private set; } = [];

    /// <summary>The times from a write's acknowledgement to its first read on another node, without faults.</summary>
    public List<TimeSpan> Delays { get; } = [];

    /// <summary>How many writes were acknowledged before they were committed.</summary>
    public long Queued { get; private set; }

    public async Task RunAsync()
    {
        var seed = Setting("CACHINGAPI_SEED") ?? Random.Shared.Next();
        output.WriteLine($"seed {seed}");

        await using var cluster = IsCluster ? await RedisCluster.StartAsync() : null;
        await using var single = IsCluster ? null : await RedisServer.StartAsync();
        await using var state = await RedisServer.StartAsync(KeepsState ? ["--appendonly", "yes", "--appendfsync", "always"] : []);
        await using var postgres = await PostgresServer.StartDurableAsync();
        await using var proxy = single is null ? null : new FaultProxy(single.Port);
        var settings = AllSettings(cluster?.ConnectionString ?? single!.ConnectionString, state, postgres);
        await using var first = await ApiNode.StartAsync(servers, settings);
        await using var second = await ApiNode.StartAsync(
            servers,
            new(settings) { ["ConnectionStrings:Redis"] = proxy?.ConnectionString ?? settings["ConnectionStrings:Redis"] },
            nodeOf: first);

        var checker = new HistoryChecker(Lag) { Report = violation => output.WriteLine($"VIOLATION: {violation}") };
        using var clock = new HistoryClock();
        using var process = new HistoryNode(checker, first.Anonymous, first.SettingsWith([]));
        HistoryNode[] nodes = [new(checker, first.Anonymous), new(checker, second.Anonymous), process];
        Nodes = nodes;
        await process.StartAsync();
        await first.SqlAsync(Audit);
        var workload = new HistoryWorkload(checker, clock, nodes, postgres.ConnectionString);
        await workload.CreateUsersAsync(Users);
        var faults = new HistoryFaults(
            new(seed - 1),
            checker,
            clock,
            cluster?.Nodes ?? [single!],
            state,
            KeepsState,
            postgres,
            proxy,
            process,
            what => output.WriteLine($"{clock.Now():mm\\:ss\\.f} {what}"));

        var start = Stopwatch.GetTimestamp();
        using var end = new CancellationTokenSource();
        await using var progress = new Timer(
            _ => output.WriteLine(
                $"{Stopwatch.GetElapsedTime(start).TotalSeconds:0} s: {workload.Reads} reads, {workload.Writes} writes, "
                + $"{faults.Count} faults, {checker.Count} violations"),
            null, TimeSpan.FromSeconds(10), TimeSpan.FromSeconds(10));
        Task[] work =
        [
            .. Enumerable.Range(0, Callers).Select(
                caller => workload.WorkAsync(new(seed + caller), nodes[caller % nodes.Length], writes: caller < Callers / 2, end.Token)),
            workload.PassAsync(new(seed + Callers), end.Token),
            MeasureAsync(workload, new(seed + Callers + 1), faults, Delays, end.Token),
        ];
        try
        {
            using var stop = new CancellationTokenSource(TimeSpan.FromSeconds(Setting("CACHINGAPI_SOAK_SECONDS") ?? Duration.TotalSeconds));
            await faults.RunAsync(stop.Token);
        }
        finally
        {
            end.CancelAfter(Rest);
            await Task.WhenAll(work);
        }

        NpgsqlConnection.ClearAllPools(); // PostgreSQL was killed
        await VerifyAsync(first, checker);
        foreach (var node in nodes)
        {
            await node.CountInconsistenciesAsync();
        }

        Report(workload, nodes, checker, clock, faults);
        await AgreeAsync(first, nodes, workload, checker);
        Assert.True(checker.Count == 0, $"seed {seed}, {checker.Count} violations:\n{string.Join('\n', checker.Violations.Take(5))}");
        Queued = workload.Queued;
    }

    private static bool IsCluster => Environment.GetEnvironmentVariable("CACHINGAPI_TEST_REDIS") is "cluster";

    /// <summary>Keeps every version that a row has had.</summary>
    private const string Audit =
        """
        CREATE TABLE audit (place bigserial PRIMARY KEY, id uuid, version bigint, name text);
        CREATE INDEX ON audit (id, version);
        CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO audit (id, version, name) VALUES (NEW.id, NEW.version, NEW.display_name);
            RETURN NULL;
        END $$;
        CREATE TRIGGER users_audit AFTER INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION audit();
        """;

    private static async Task MeasureAsync(
        HistoryWorkload workload, Random random, HistoryFaults faults, List<TimeSpan> delays, CancellationToken stop)
    {
        while (!stop.IsCancellationRequested)
        {
            var calm = faults.CalmNumber;
            if (calm > 0 && await workload.DelayAsync(random, stop) is { } delay && faults.CalmNumber == calm)
            {
                delays.Add(delay);
            }

            await Task.Delay(random.Next(20), CancellationToken.None);
        }
    }

    /// <summary>
    /// At rest, every node's memory, Redis and every list agree with the rows, and the rows have the acknowledged writes.
    /// </summary>
    private static async Task AgreeAsync(ApiNode api, HistoryNode[] nodes, HistoryWorkload workload, HistoryChecker checker)
    {
        await Eventually.TrueAsync(async () => await QueueLengthAsync(nodes[0]) == 0, "the queue to be empty");
        var rows = await RowsAsync(api);
        foreach (var (user, last) in checker.Acknowledged())
        {
            var row = rows.TryGetValue(user, out var found) ? found : (Version: HistoryChecker.GoneVersion, Content: HistoryChecker.Gone);
            if (row.Version < last.Version || (row.Version == last.Version && row.Content != last.Content))
            {
                checker.Violated($"the row of user {user} has {row}, the last acknowledged write was {last}");
            }
        }

        // The process is restarted, so that its first reads come from Redis.
        await nodes[^1].KillAsync();
        await nodes[^1].StartAsync();
        foreach (var node in nodes)
        {
            for (var time = 0; time < 2; time++)
            {
                foreach (var user in workload.Users)
                {
                    await Eventually.TrueAsync(
                        async () => (await node.FindAsync(user))?.Seen == rows[user],
                        $"user {user} to be shown as {rows[user]} by node {node.Number}");
                    await Eventually.TrueAsync(
                        async () => await IsInRedisAsync(node, user, rows[user].Version),
                        $"Redis to have user {user} in version {rows[user].Version}");
                }

                foreach (var limit in new[] { 100, 5 })
                {
                    await Eventually.TrueAsync(
                        async () => await ShowsAsync(node, limit, rows), $"pages of {limit} to show the rows on node {node.Number}");
                }
            }
        }
    }

    /// <summary>Checks that need the versions that the rows have had.</summary>
    private static async Task VerifyAsync(ApiNode api, HistoryChecker checker)
    {
        foreach (var (user, version, content, why) in checker.Suspects)
        {
            if (!await api.SqlAsync<bool>(
                $"SELECT EXISTS (SELECT 1 FROM audit WHERE id = '{user}' AND version = {version} AND name = '{content}')"))
            {
                checker.Violated(why);
            }
        }

        var backward = await api.SqlAsync<long>(
            "SELECT count(*) FROM (SELECT version <= lag(version) OVER (PARTITION BY id ORDER BY place) AS backward FROM audit) versions "
            + "WHERE backward");
        if (backward > 0)
        {
            checker.Violated($"{backward} times a row's version did not grow");
        }
    }

    private static async Task<Dictionary<Guid, (long Version, string Content)>> RowsAsync(ApiNode api)
    {
        var rows = new Dictionary<Guid, (long, string)>();
        await using var connection = new NpgsqlConnection($"{api.Database};Pooling=false");
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand("SELECT id, version, display_name FROM users", connection);
        await using var reader = await command.ExecuteReaderAsync();
        while (await reader.ReadAsync())
        {
            rows[reader.GetGuid(0)] = (reader.GetInt64(1), reader.GetString(2));
        }

        return rows;
    }

    private static async Task<long?> QueueLengthAsync(HistoryNode node)
    {
        using var answer = await node.SendAsync(HttpMethod.Get, "/cache/stats");
        return answer is not null && (await answer.JsonAsync()).GetProperty("writeBehind") is { ValueKind: JsonValueKind.Object } queue
            ? queue.GetProperty("queueLength").GetInt64()
            : null;
    }

    private static async Task<bool> IsInRedisAsync(HistoryNode node, Guid user, long version)
    {
        using var answer = await node.SendAsync(HttpMethod.Get, $"/cache/entries?key=users:{user}");
        return answer is not null && (await answer.JsonAsync()).GetProperty("redis") is var tier
            && tier.GetProperty("state").GetString() == "fresh" && tier.GetProperty("version").GetInt64() == version;
    }

    /// <summary>Whether the first two pages show the newest users as they are.</summary>
    private static async Task<bool> ShowsAsync(HistoryNode node, int limit, Dictionary<Guid, (long Version, string Content)> rows)
    {
        var shown = new List<(Guid, (long, string))>();
        var after = (string?)null;
        for (var page = 0; page < 2 && (page == 0 || after is not null); page++)
        {
            if (await node.ListAsync(limit, after) is not { } seen)
            {
                return false;
            }

            shown.AddRange(seen.Users.Select(user => (user.Key, user.Value)));
            after = seen.Next;
        }

        var newest = rows.OrderByDescending(row => $"{row.Key}", StringComparer.Ordinal)
            .Take(2 * limit)
            .Select(row => (row.Key, row.Value));
        return newest.SequenceEqual(shown);
    }

    private void Report(
        HistoryWorkload workload, HistoryNode[] nodes, HistoryChecker checker, HistoryClock clock, HistoryFaults faults)
    {
        output.WriteLine(
            $"{workload.Reads} reads, {workload.Writes} acknowledged writes, {faults.Count} faults, {checker.Count} violations");
        foreach (var violation in checker.Violations.Take(5))
        {
            output.WriteLine(violation);
        }

        foreach (var node in nodes)
        {
            var tiers = string.Join(", ", node.Tiers.OrderBy(tier => tier.Key).Select(tier => $"{tier.Key} {tier.Value}"));
            output.WriteLine($"node {node.Number}: {tiers}; {node.Compared} entries compared with their source");
        }

        output.WriteLine(
            $"the machine stalled for {clock.LongestStall.TotalMilliseconds:0} ms at worst, "
            + $"{clock.Stalled.TotalSeconds:0.0} s in all are not counted");
        output.WriteLine(
            $"largest staleness of another node, faults included: {checker.Staleness.TotalMilliseconds:0} ms (promised: 1,000)");
        if (Delays.Count > 0)
        {
            output.WriteLine(
                $"delay of a write to another node without faults, {Delays.Count} measured: "
                + $"p50 {Percentile(Delays, 0.5).TotalMilliseconds:0.0} ms, "
                + $"p99 {Percentile(Delays, 0.99).TotalMilliseconds:0.0} ms (promised: 100), max {Delays.Max().TotalMilliseconds:0.0} ms");
        }
    }

    public static TimeSpan Percentile(List<TimeSpan> values, double part) => values.Order().ElementAt((int)(part * (values.Count - 1)));

    private Dictionary<string, string> AllSettings(string cache, RedisServer state, PostgresServer postgres) => new(Settings)
    {
        ["ConnectionStrings:Redis"] = cache,
        ["ConnectionStrings:RedisState"] = state.ConnectionString,
        ["ConnectionStrings:Postgres"] = postgres.ConnectionString,
        ["Database:ChangeCapture"] = "true",
        ["Cache:Verify"] = "20",
        ["Cache:RedisDeadline"] = "00:00:00.050",
        ["Redis:StateDeadline"] = "00:00:00.500",
        // A history expects 503 as an answer.
        ["Serilog:MinimumLevel:Default"] = "Fatal",
        // No entry expires during the history, so a stale entry stays stale.
        ["Cache:Users:Ttl"] = "01:00:00",
        ["Cache:Users:StaleFor"] = "00:00:00",
        ["Cache:Users:NegativeTtl"] = "01:00:00",
        ["Cache:Users:MemoryTtl"] = "01:00:00",
        ["Cache:UserLists:Ttl"] = "01:00:00",
        ["Cache:UserLists:StaleFor"] = "00:00:00",
        ["Cache:UserLists:MemoryTtl"] = "01:00:00",
    };

    private static int? Setting(string name) =>
        int.TryParse(Environment.GetEnvironmentVariable(name), CultureInfo.InvariantCulture, out var value) ? value : null;
}
