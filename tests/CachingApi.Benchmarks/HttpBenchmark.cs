using System.Globalization;
using CachingApi.Redis;
using CachingApi.Sessions;
using Dapper;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;
using Npgsql;

namespace CachingApi.Benchmarks;

/// <summary>
/// The request that a user sends: over HTTP, logged in, limited, logged and measured, with 200 users and 32 connections. Each route is
/// measured beside an endpoint that only sends as many bytes (bare), and beside a service of well-known parts (stock),
/// in interleaved rounds.
/// </summary>
internal sealed class HttpBenchmark(string postgres, string redis, string state, bool isBrief) : IAsyncDisposable
{
    private const int Users = 200;
    private const string City = "/weather/berlin";

    private static readonly HttpClient Client = new(new HttpClientHandler { UseCookies = false });

    private readonly NpgsqlDataSource _database = NpgsqlDataSource.Create(postgres);
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("cachingapi-bench");
    private readonly List<Service> _services = [];
    private readonly string _run = Guid.NewGuid().ToString("N");
    private (Guid Id, string Email)[] _users = [];

    /// <param name="Prefix">The prefix of its keys in Redis.</param>
    private sealed record Service(ServerProcess Process, string Prefix);

    /// <param name="Requests">The file that wrk reads the requests from.</param>
    private sealed record Contender(string Name, Service Service, string Requests)
    {
        public List<Load> Loads { get; } = [];
    }

    private sealed record Row(string Name, Contender Ours, params (string Name, Contender Contender)[] Others);

    public async Task RunAsync()
    {
        var rows = await RowsAsync();
        var contenders = rows.SelectMany(row => row.Others.Select(other => other.Contender).Prepend(row.Ours)).Distinct().ToArray();
        var (rounds, seconds) = isBrief ? (1, 1) : (5, 3);
        for (var round = 0; round <= rounds; round++)
        {
            foreach (var contender in contenders)
            {
                await Console.Error.WriteAsync($"\r\e[K{(round == 0 ? "Warming up" : $"Round {round} of {rounds}")}: {contender.Name}");
                var load = await Wrk.RunAsync(contender.Service.Process, contender.Requests, seconds);
                if (round > 0)
                {
                    contender.Loads.Add(load);
                }
            }
        }

        await Console.Error.WriteAsync("\r\e[K");
        Print(rows);
    }

    public async ValueTask DisposeAsync()
    {
        await using var database = _database;
        _services.ForEach(service => service.Process.Dispose());
        _folder.Delete(recursive: true);
        if (_users.Length == 0)
        {
            return; // the service did not start
        }

        await using var connection = await _database.OpenConnectionAsync();
        await connection.ExecuteAsync("DELETE FROM users WHERE id = ANY (@ids)", new { ids = _users.Select(user => user.Id).ToArray() });
        await connection.ExecuteAsync(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE @slots AND NOT active",
            new { slots = $"%{_run[..8]}%" });
    }

    private async Task<Row[]> RowsAsync()
    {
        var on = await StartAsync(); // the first one migrates the schema
        _users = await AddUsersAsync();
        var off = await StartAsync(("RateLimits__Enabled", "false"));
        var strict = await StartAsync(("Sessions__MemoryTtl", "00:00:00"));
        var inRedis = await StartAsync(("Cache__Users__MemoryTtl", "00:00:00"));
        var stock = await StartOtherAsync("stock", "{url}", postgres, redis);
        var bare = await StartOtherAsync("bare", "{url}");

        var (cookies, tokens) = await LogInToStockAsync(stock);
        var (sessions, strictSessions, redisSessions) =
            (await AddSessionsAsync(on), await AddSessionsAsync(strict), await AddSessionsAsync(inRedis));
        var bareWeather = Contend("bare weather", bare, [new("GET", await BytesOfAsync(on, City, ""))]);
        var bareUser = Contend("bare user", bare, [new("GET", await BytesOfAsync(on, $"/users/{_users[0].Id}", sessions[0]))]);
        var anonymous = Contend("stock anonymous", stock, [new("GET", $"/public/{_users[0].Id}")]);
        var writes = Contend("write-through", on, Writes(sessions, "?strategy=write-through"));
        return
        [
            new("weather, memory hit, limits off", Contend("weather without limits", off, [new("GET", City)]), ("bare", bareWeather)),
            new("weather, memory hit, limits on, one address", Contend("weather", on, [new("GET", City)]),
                ("bare", bareWeather), ("stock, anonymous", anonymous)),
            new("user, memory hit, session and limits", Contend("user", on, Reads(sessions)),
                ("bare", bareUser),
                ("stock, tickets", Contend("stock with tickets", stock, Reads(cookies))),
                ("stock, JWT", Contend("stock with JWT", stock, Reads(tokens)))),
            new("the same, sessions in Redis only", Contend("user, strict", strict, Reads(strictSessions)), ("bare", bareUser)),
            new("user, Redis hit, session and limits", Contend("user in Redis", inRedis, Reads(redisSessions)), ("bare", bareUser)),
            new("PUT write-through", writes,
                ("stock, commit then set", Contend("stock PUT", stock, Writes(cookies, "")))),
            new("PUT write-behind, persisted meanwhile", Contend("write-behind", on, Writes(sessions, "?strategy=write-behind")),
                ("write-through", writes)),
        ];
    }

    /// <summary>Starts a service of this program.</summary>
    private async Task<Service> StartOtherAsync(params string[] arguments)
    {
        var program = typeof(HttpBenchmark).Assembly.Location;
        _services.Add(new(await ServerProcess.StartAsync([program, .. arguments], new Dictionary<string, string>()), ""));
        return _services[^1];
    }

    /// <summary>Starts the service as it is deployed, with limits that are never reached.</summary>
    private async Task<Service> StartAsync(params (string Name, string Value)[] settings)
    {
        var prefix = $"bench-{_run[..8]}-{_services.Count}";
        var environment = settings.Concat(
        [
            ("ConnectionStrings__Postgres", postgres),
            ("ConnectionStrings__Redis", redis),
            ("ConnectionStrings__RedisState", state),
            ("Redis__KeyPrefix", prefix),
            ("RateLimits__Policies__default__Limit", "1000000"),
            ("RateLimits__Policies__default__Window", "00:00:10"),
            ("RateLimits__Policies__weather__Limit", "1000000"),
            ("RateLimits__Policies__weather__Window", "00:00:10"),
        ]).ToDictionary();
        var built = new DirectoryInfo(AppContext.BaseDirectory);
        var service = Path.Combine(built.Parent!.Parent!.FullName, "CachingApi", built.Name, "CachingApi.dll");
        _services.Add(new(await ServerProcess.StartAsync([service], environment), prefix));
        return _services[^1];
    }

    private async Task<(Guid Id, string Email)[]> AddUsersAsync()
    {
        (Guid Id, string Email)[] users =
            [.. Enumerable.Range(0, Users).Select(number => (NewId(), $"bench-{_run}-{number}@example.com"))];
        await using var connection = await _database.OpenConnectionAsync();
        await connection.ExecuteAsync(
            """
            INSERT INTO users (id, email, email_key, display_name, password_hash, created_at, updated_at)
            SELECT id, email, email, 'A user of the benchmark', '', now(), now() FROM unnest(@ids, @emails) AS given (id, email)
            """,
            new { ids = users.Select(user => user.Id).ToArray(), emails = users.Select(user => user.Email).ToArray() });
        return users;
    }

    /// <summary>A session for each user; returns their headers.</summary>
    private async Task<string[]> AddSessionsAsync(Service service)
    {
        await using var connections = new RedisConnections(
            Options.Create(new RedisOptions { Cache = redis, State = state, KeyPrefix = service.Prefix }),
            NullLogger<RedisConnections>.Instance);
        var store = SessionsOf(connections);
        var headers = new List<string>();
        foreach (var (id, _) in _users)
        {
            var (token, _) = await store.CreateAsync(id, "user", SessionTransport.Bearer, "wrk", isShort: false, CancellationToken.None);
            headers.Add($"Authorization: Bearer {token.Text}");
        }

        return [.. headers];
    }

    private static Guid NewId() => Guid.CreateVersion7(TimeProvider.System.GetUtcNow());

    private static SessionStore SessionsOf(RedisConnections connections)
    {
        var policy = Options.Create(new SessionPolicy { MemoryTtl = TimeSpan.Zero });
        var memory = new SessionMemory(policy);
        var backplane = new SessionBackplane(connections, memory, NullLogger<SessionBackplane>.Instance);
        return new(connections, new(connections), memory, backplane, policy, TimeProvider.System);
    }

    private async Task<(string[] Cookies, string[] Tokens)> LogInToStockAsync(Service stock)
    {
        var (cookies, tokens) = (new List<string>(), new List<string>());
        foreach (var (id, _) in _users)
        {
            using var answer = await Client.PostAsync(new Uri($"{stock.Process.Url}/login/{id}"), content: null);
            cookies.Add($"Cookie: {answer.EnsureSuccessStatusCode().Headers.GetValues("Set-Cookie").Single().Split(';')[0]}");
            tokens.Add($"Authorization: Bearer {await answer.Content.ReadAsStringAsync()}");
        }

        return ([.. cookies], [.. tokens]);
    }

    /// <summary>The path of the bare endpoint that sends as many bytes as this one.</summary>
    private static async Task<string> BytesOfAsync(Service service, string path, string header)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, new Uri(service.Process.Url + path));
        if (header.Split(": ") is [var name, var value])
        {
            request.Headers.TryAddWithoutValidation(name, value);
        }

        using var answer = await Client.SendAsync(request);
        return $"/bytes/{(await answer.EnsureSuccessStatusCode().Content.ReadAsByteArrayAsync()).Length}";
    }

    private Request[] Reads(string[] headers) => [.. _users.Select((user, at) => new Request("GET", $"/users/{user.Id}", "", headers[at]))];

    private Request[] Writes(string[] headers, string query) =>
    [
        .. _users.Select((user, at) => new Request(
            "PUT",
            $"/users/{user.Id}{query}",
            $$"""{"email":"{{user.Email}}","displayName":"A user of the benchmark"}""",
            headers[at],
            "Content-Type: application/json")),
    ];

    private Contender Contend(string name, Service service, Request[] requests)
    {
        var file = Path.Combine(_folder.FullName, name.Replace(' ', '-'));
        File.WriteAllLines(file, requests.Select(request => request.ToString()));
        return new(name, service, file);
    }

    /// <summary>Medians, with the least and the greatest in brackets; the ratios are of the same round.</summary>
    private void Print(Row[] rows)
    {
        Console.WriteLine();
        Console.WriteLine("| route, 32 connections | requests/s | p99 | CPU per request | beside |");
        Console.WriteLine("|---|---|---|---|---|");
        foreach (var row in rows)
        {
            var ours = row.Ours.Loads;
            var ratios = row.Others.Select(other =>
            {
                var (theirs, name) = (other.Contender.Loads, other.Name);
                var ratio = Spread([.. ours.Zip(theirs, (mine, their) => mine.PerSecond / their.PerSecond)], "F2");
                return string.Create(
                    CultureInfo.InvariantCulture,
                    $"{ratio} × {name} ({Median(theirs, load => load.PerSecond):N0}/s, {Median(theirs, load => load.Cpu):F0} µs)");
            });
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"| {row.Name} | {Spread([.. ours.Select(load => load.PerSecond)], "N0")} | {Median(ours, load => load.P99):F1} ms "
                + $"| {Median(ours, load => load.Cpu):F0} µs | {string.Join("; ", ratios)} |"));
        }

        foreach (var contender in rows.SelectMany(row => row.Others.Select(other => other.Contender).Prepend(row.Ours)).Distinct())
        {
            if (contender.Loads.Sum(load => load.Errors) is var errors and > 0)
            {
                Console.WriteLine($"{contender.Name}: {errors} requests were not answered by 200 or 202, so its figures do not count.");
            }
        }

        Console.WriteLine();
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"Memory of the service at the end: {_services[0].Process.Memory / 1048576} MiB."));
    }

    private static string Spread(double[] values, string format)
    {
        var (middle, least, most) = (Text(Measure.Percentile(values, 0.5)), Text(values.Min()), Text(values.Max()));
        return values.Length == 1 ? middle : $"{middle} ({least} to {most})";

        string Text(double value) => value.ToString(format, CultureInfo.InvariantCulture);
    }

    private static double Median(List<Load> loads, Func<Load, double> figure) => Measure.Percentile(loads.Select(figure), 0.5);
}
