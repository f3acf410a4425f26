using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using StackExchange.Redis;

namespace CachingApi.Benchmarks;

/// <summary>
/// Compares what each <c>maxmemory-policy</c> keeps. Every policy and round has its own Redis, all run at the same time. Each has room for
/// a tenth of the keys that are requested by Zipf's law (s = 1), and also holds some state, half of it without a TTL.
/// </summary>
/// <remarks>
/// Requests are paced: Redis records times of use in seconds, so a faster run would measure <c>lru</c> as no better than chance. The seed
/// determines the requested keys; Redis chooses the keys that a policy samples.
/// </remarks>
internal static class EvictionBenchmark
{
    private const int Keys = 50_000;
    private const int Room = Keys / 10;
    private const int StateKeys = 100; // of each kind
    private const int Rounds = 3;
    private const int BatchSize = 50;
    private const int BatchesInPhase = 300;
    private const int EntrySize = 300; // a user: 48 bytes of header and about 250 of JSON
    private static readonly TimeSpan Pace = TimeSpan.FromMilliseconds(50); // so 1,000 requests per second, and 15 seconds in a phase

    private static readonly string[] Policies =
        ["allkeys-lfu", "allkeys-lru", "allkeys-random", "volatile-lfu", "volatile-lru", "volatile-ttl", "volatile-random", "noeviction"];

    private static readonly double[] Cumulated = Zipf();

    public static async Task RunAsync(string redisServer)
    {
        using var ended = PosixSignalRegistration.Create(PosixSignal.SIGTERM, _ => Environment.Exit(143)); // the exit ends the servers
        var runs = await Task.WhenAll(
            Policies.SelectMany(policy => Enumerable.Range(1, Rounds).Select(seed => RunAsync(redisServer, policy, seed))));
        Console.WriteLine(
            $"Room for {Room:N0} of {Keys:N0} keys; {Rounds} rounds of {BatchesInPhase * BatchSize:N0} requests in each column. "
            + $"Had it always held the keys that are asked for most: {Cumulated[Room - 1]:P1}.");
        Console.WriteLine();
        Console.WriteLine(
            "| policy | hits | hits, with a scan | hits, after a change of taste | evicted | refused writes "
            + $"| lost without TTL, of {StateKeys} | lost with TTL, of {StateKeys} |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|");
        foreach (var rounds in runs.GroupBy(run => run.Policy))
        {
            string Range(Func<Run, double> value, string format) => (
                rounds.Min(value).ToString(format, CultureInfo.InvariantCulture),
                rounds.Max(value).ToString(format, CultureInfo.InvariantCulture)) switch
            {
                var (least, most) when least == most => least,
                var (least, most) => $"{least} to {most}",
            };
            Console.WriteLine(
                $"| `{rounds.Key}` | {Range(run => run.Zipf, "P1")} | {Range(run => run.Scan, "P1")} | {Range(run => run.Change, "P1")} "
                + $"| {Range(run => run.Evicted, "N0")} | {Range(run => run.Refused, "N0")} | {Range(run => run.QueuesLost, "N0")} "
                + $"| {Range(run => run.SessionsLost, "N0")} |");
        }
    }

    private static async Task<Run> RunAsync(string redisServer, string policy, int seed)
    {
        await using var server = await PrivateRedis.StartAsync(redisServer);
        var redis = server.Database;
        var random = new Random(seed);
        await LimitAsync(redis, policy);

        var ranking = Enumerable.Range(0, Keys).ToArray();
        random.Shuffle(ranking);
        var refused = 0;
        for (var batch = 0; batch < Keys / BatchSize; batch++)
        {
            refused += (await GetOrFillAsync(redis, Asked())).Refused; // until it is full
        }

        var zipf = await PhaseAsync(() => []);
        var scanned = 0;
        var scan = await PhaseAsync(() => Enumerable.Range(0, BatchSize).Select(_ => Keys + scanned++)); // each of them once
        random.Shuffle(ranking);
        var change = await PhaseAsync(() => []);

        var evicted = (long)await redis.ScriptEvaluateAsync(
            @"return tonumber(string.match(redis.call('INFO', 'stats'), 'evicted_keys:(%d+)'))");
        return new(policy, zipf, scan, change, evicted, refused, await LostAsync(Queue), await LostAsync(Session));

        async Task<long> LostAsync(Func<int, RedisKey> key) =>
            StateKeys - await redis.KeyExistsAsync([.. Enumerable.Range(0, StateKeys).Select(key)]);

        int[] Asked() => [.. Enumerable.Range(0, BatchSize).Select(_ => ranking[Rank(random)])];

        async Task<double> PhaseAsync(Func<IEnumerable<int>> beside)
        {
            var hits = 0;
            using var timer = new PeriodicTimer(Pace);
            for (var batch = 0; batch < BatchesInPhase; batch++)
            {
                await timer.WaitForNextTickAsync();
                var asked = await GetOrFillAsync(redis, Asked());
                var others = await GetOrFillAsync(redis, [.. beside()]);
                hits += asked.Hits;
                refused += asked.Refused + others.Refused;
            }

            return (double)hits / (BatchesInPhase * BatchSize);
        }
    }

    /// <summary>Writes the state, measures the memory of state and entries, and sets the limit to that.</summary>
    private static async Task LimitAsync(IDatabase redis, string policy)
    {
        for (var key = 0; key < StateKeys; key++)
        {
            await redis.StreamAddAsync(Queue(key), "user", $"{key}");
            await redis.HashSetAsync(Session(key), [new("user", $"{key}"), new("created", "1795408000"), new("device", "a browser")]);
            await redis.KeyExpireAsync(Session(key), TimeSpan.FromDays(1));
        }

        await Task.WhenAll(Enumerable.Range(0, Room).Select(key => redis.StringSetAsync(Key(key), new byte[EntrySize], TimeToLive(key))));
        var full = (long)await redis.ScriptEvaluateAsync(
            @"return tonumber(string.match(redis.call('INFO', 'memory'), 'used_memory:(%d+)'))");
        await redis.KeyDeleteAsync([.. Enumerable.Range(0, Room).Select(Key)]);
        await redis.ExecuteAsync("CONFIG", "SET", "maxmemory", full, "maxmemory-policy", policy);
    }

    private static async Task<(int Hits, int Refused)> GetOrFillAsync(IDatabase redis, int[] keys)
    {
        var values = await redis.StringGetAsync([.. keys.Select(Key)]);
        var (hits, refused) = (0, 0);
        await Task.WhenAll(keys.Zip(values).GroupBy(asked => asked.First).Select(async asked =>
        {
            if (!asked.First().Second.IsNull)
            {
                hits += asked.Count();
                return;
            }

            try
            {
                await redis.StringSetAsync(Key(asked.Key), new byte[EntrySize], TimeToLive(asked.Key));
                Interlocked.Add(ref hits, asked.Count() - 1);
            }
            catch (RedisServerException error) when (error.Message.StartsWith("OOM", StringComparison.Ordinal))
            {
                Interlocked.Increment(ref refused);
            }
        }));
        return (hits, refused);
    }

    private static RedisKey Key(int key) => $"cachingapi:users:g1:{key:00000000-0000-0000-0000-000000000000}";

    private static RedisKey Queue(int key) => $"cachingapi:queue:{key}";

    private static RedisKey Session(int key) => $"cachingapi:session:{key}";

    /// <summary>How long the service's entries are kept, fresh and stale together: mostly users, some of everything else.</summary>
    private static TimeSpan TimeToLive(int key) => (key % 20) switch
    {
        0 => TimeSpan.FromSeconds(30), // a user that does not exist
        1 => TimeSpan.FromMinutes(11), // a page of users
        2 => TimeSpan.FromDays(60), // the place of a city
        <= 6 => TimeSpan.FromHours(24.3), // the weather
        _ => TimeSpan.FromMinutes(69 + key % 2), // a user, with jitter
    };

    private static int Rank(Random random)
    {
        var found = Array.BinarySearch(Cumulated, random.NextDouble());
        return Math.Min(found < 0 ? ~found : found, Keys - 1);
    }

    private static double[] Zipf()
    {
        var sum = 0.0;
        var cumulated = Enumerable.Range(1, Keys).Select(rank => sum += 1.0 / rank).ToArray();
        return [.. cumulated.Select(part => part / sum)];
    }

    private sealed record Run(
        string Policy,
        double Zipf,
        double Scan,
        double Change,
        long Evicted,
        long Refused,
        long QueuesLost,
        long SessionsLost);

    /// <summary>A Redis that ends with this process.</summary>
    private sealed class PrivateRedis : IAsyncDisposable
    {
        private readonly Process _process;
        private readonly ConnectionMultiplexer _connection;

        private PrivateRedis(Process process, ConnectionMultiplexer connection)
        {
            (_process, _connection) = (process, connection);
            Database = connection.GetDatabase();
        }

        public IDatabase Database { get; }

        public static async Task<PrivateRedis> StartAsync(string redisServer)
        {
            var port = FreePort();
            var start = new ProcessStartInfo(
                redisServer, ["--port", $"{port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", Path.GetTempPath()])
            {
                RedirectStandardOutput = true,
            };
            var process = Process.Start(start)!;
            AppDomain.CurrentDomain.ProcessExit += (_, _) => Kill(process);
            process.BeginOutputReadLine();
            return new(
                process,
                await ConnectionMultiplexer.ConnectAsync(
                    $"127.0.0.1:{port},allowAdmin=true,abortConnect=false,syncTimeout=60000,asyncTimeout=60000"));
        }

        public async ValueTask DisposeAsync()
        {
            await _connection.DisposeAsync();
            Kill(_process);
        }

        private static void Kill(Process process)
        {
            if (!process.HasExited)
            {
                process.Kill();
            }
        }

        private static int FreePort()
        {
            using var listener = new TcpListener(IPAddress.Loopback, 0);
            listener.Start();
            return ((IPEndPoint)listener.LocalEndpoint).Port;
        }
    }
}
