using System.Globalization;
using CachingApi.Lab.Contenders;
using CachingApi.Tests.Servers;
using Dapper;
using Npgsql;

namespace CachingApi.Lab;

/// <summary>The servers of a run: the given Redis and PostgreSQL, with a database of its own.</summary>
internal sealed class Lab : IAsyncDisposable
{
    /// <summary>The connections of a service to PostgreSQL, so that too many loads wait for each other as in production.</summary>
    public const int Connections = 20;

    /// <summary>A busy machine must not count as an outage.</summary>
    private const string Patience = ",asyncTimeout=30000,syncTimeout=30000,connectTimeout=30000";

    private readonly string _server;
    private readonly string _database = $"lab_{Guid.NewGuid():N}";

    private Lab(string server, string redis, string redisState, int seed)
    {
        (_server, Redis, RedisState, Seed) = (server, redis + Patience, redisState + Patience, seed);
        Postgres = DataSource(null);
    }

    public string Redis { get; }

    public string RedisState { get; }

    public int Seed { get; }

    /// <summary>The database, for writers and for the lab itself.</summary>
    public NpgsqlDataSource Postgres { get; }

    public static async Task<Lab> StartAsync(string postgres, string redis, string redisState, int seed, CancellationToken cancel)
    {
        var lab = new Lab(postgres, redis, redisState, seed);
        await using (var server = new NpgsqlConnection(postgres))
        {
            await server.ExecuteAsync(new CommandDefinition($"CREATE DATABASE {lab._database}", cancellationToken: cancel));
        }

        await using var connection = await lab.Postgres.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(
            """
            CREATE TABLE orders (
                id text PRIMARY KEY,
                customer text NOT NULL,
                quantity int NOT NULL,
                version bigint NOT NULL DEFAULT 1,
                fence bigint NOT NULL DEFAULT 0
            )
            """,
            cancellationToken: cancel));
        return lab;
    }

    /// <summary>Starts instances of a service that has a contender's cache, and lets them connect.</summary>
    /// <param name="orders">How many orders it gets.</param>
    /// <param name="loadTime">How long PostgreSQL takes for a load.</param>
    /// <param name="database">PostgreSQL at another address; by default the lab's.</param>
    public async Task<Service> StartAsync(
        Contender contender,
        Setup setup,
        int instances,
        int orders,
        TimeSpan loadTime,
        CancellationToken cancel,
        FaultProxy? database = null)
    {
        var prefix = $"lab-{Guid.NewGuid():N}"[..20];
        var source = new Source(DataSource(database), loadTime);
        var ids = await CreateOrdersAsync(prefix, orders + 1, cancel);
        var nodes = await Task.WhenAll(
            Enumerable.Range(0, instances).Select(_ => contender.StartAsync(this, source, prefix, setup, cancel)));
        var service = new Service(contender, nodes, source, ids[..orders]);
        await service.WarmUpAsync(ids[orders], setup.WriteBehind ? Update.Behind : Update.Replace, cancel);
        return service;
    }

    public async Task<string[]> CreateOrdersAsync(string prefix, int count, CancellationToken cancel)
    {
        await using var connection = await Postgres.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(
            """
            INSERT INTO orders (id, customer, quantity)
            SELECT @prefix || '-' || n, 'Ada Lovelace', 1 FROM generate_series(1, @count) AS n
            """,
            new { prefix, count },
            cancellationToken: cancel));
        return [.. Enumerable.Range(1, count).Select(number => string.Create(CultureInfo.InvariantCulture, $"{prefix}-{number}"))];
    }

    /// <summary>A proxy before PostgreSQL, which can cut it off.</summary>
    public FaultProxy NewDatabaseProxy() => new(new NpgsqlConnectionStringBuilder(_server).Port);

    public static void Say(string progress) => Console.Error.WriteLine($"lab: {progress}");

    public async ValueTask DisposeAsync()
    {
        await Postgres.DisposeAsync();
        NpgsqlConnection.ClearAllPools();
        await using var server = new NpgsqlConnection(_server);
        await server.ExecuteAsync($"DROP DATABASE {_database} WITH (FORCE)");
    }

    private NpgsqlDataSource DataSource(FaultProxy? proxy)
    {
        var options = new NpgsqlConnectionStringBuilder(_server) { Database = _database, MaxPoolSize = Connections, Timeout = 60 };
        if (proxy is not null)
        {
            (options.Host, options.Port) = ("127.0.0.1", proxy.Port);
        }

        return NpgsqlDataSource.Create(options);
    }
}

/// <summary>Instances of a service that has a contender's cache.</summary>
internal sealed class Service(Contender contender, INode[] nodes, Source source, string[] ids) : IAsyncDisposable
{
    private static readonly TimeSpan TimeToConnect = TimeSpan.FromSeconds(1.5);

    public string Name => contender.Name;

    public IReadOnlyList<INode> Nodes => nodes;

    public Source Source => source;

    /// <summary>The ids of its orders.</summary>
    public IReadOnlyList<string> Ids => ids;

    public string Settings => nodes[0].Settings;

    /// <summary>Compiles the code and opens the connections before anything is measured.</summary>
    /// <param name="id">An order that is not measured.</param>
    public async Task WarmUpAsync(string id, Update update, CancellationToken cancel)
    {
        await Task.WhenAll(nodes.Select(async node =>
        {
            for (var turn = 0; turn < 20; turn++)
            {
                await node.GetAsync(id, cancel);
                await node.GetAsync($"missing-{turn}", cancel);
                await node.WriteAsync(id, turn + 1, update, cancel);
            }
        }));
        await Task.Delay(TimeToConnect, cancel);
        source.Forget();
    }

    public async ValueTask DisposeAsync()
    {
        await Task.WhenAll(nodes.Select(node => node.DisposeAsync().AsTask()));
        await source.DisposeAsync();
    }
}
