using System.Collections.Concurrent;
using System.Diagnostics;
using CachingApi.Caching;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Sessions;
using CachingApi.Storage;
using CachingApi.Users;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace CachingApi.Benchmarks;

/// <summary>
/// Write-behind beside write-through: the same updates of 10,000 users by 64 callers; and the drain rate of the queue for each batch
/// size, in its own database.
/// </summary>
internal static class WriteBehindBenchmark
{
    private const int Users = 10_000;
    private const int Callers = 64;
    private const int Drained = 50_000;

    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(4);

    public static async Task RunAsync(string postgres, string redis, string state)
    {
        var name = $"bench_{Guid.NewGuid():N}";
        var database = new NpgsqlConnectionStringBuilder(postgres) { Database = name }.ConnectionString;
        await SqlAsync(postgres, $"CREATE DATABASE {name}");
        try
        {
            await AcknowledgedAsync(database, redis, state);
            await DrainedAsync(database, redis, state);
        }
        finally
        {
            NpgsqlConnection.ClearAllPools();
            await SqlAsync(postgres, $"DROP DATABASE {name} WITH (FORCE)");
        }
    }

    private static async Task AcknowledgedAsync(string database, string redis, string state)
    {
        await using var app = await StartAsync(database, redis, state, batchSize: 200);
        var service = app.Services.GetRequiredService<UserService>();
        var users = await FillAsync(database);
        await Parallel.ForEachAsync(users, async (user, cancel) => await service.FindAsync(user.Id, cancel));

        Console.WriteLine();
        Console.WriteLine($"| writes, {Callers} callers | acknowledged/s | p50 | p99 | of write-through |");
        Console.WriteLine("|---|---|---|---|---|");
        var rates = new Dictionary<WriteStrategy, List<(double PerSecond, double P50, double P99)>>();
        for (var round = 0; round < 2; round++)
        {
            foreach (var strategy in new[] { WriteStrategy.WriteThrough, WriteStrategy.WriteBehind })
            {
                rates.TryAdd(strategy, []);
                rates[strategy].Add(await WritesAsync(service, users, strategy));
                await EmptyAsync(app);
            }
        }

        var through = rates[WriteStrategy.WriteThrough].Average(rate => rate.PerSecond);
        foreach (var (strategy, rounds) in rates)
        {
            var perSecond = rounds.Average(rate => rate.PerSecond);
            Console.WriteLine(
                $"| {strategy} | {perSecond:N0} | {rounds.Average(rate => rate.P50):F2} ms | {rounds.Average(rate => rate.P99):F2} ms "
                + $"| {perSecond / through:F1} |");
        }

        await app.StopAsync();
    }

    private static async Task DrainedAsync(string database, string redis, string state)
    {
        Console.WriteLine();
        Console.WriteLine("| rows in a batch at most | queued/s, with the database held up | drained rows/s |");
        Console.WriteLine("|---|---|---|");
        foreach (var batchSize in new[] { 1, 10, 100, 200, 500, 1000, 2000 })
        {
            var drained = batchSize == 1 ? Drained / 10 : Drained;
            await using var app = await StartAsync(database, redis, state, batchSize);
            var users = await FillAsync(database, drained);
            var queue = app.Services.GetRequiredKeyedService<WriteBehind>(UserCache.Users);

            // The queue is filled while the table is locked, so that only the draining is measured.
            await using var connection = new NpgsqlConnection(database);
            await connection.OpenAsync();
            await using (var held = new NpgsqlCommand("BEGIN; LOCK TABLE users IN EXCLUSIVE MODE", connection))
            {
                await held.ExecuteNonQueryAsync();
            }

            var filling = Stopwatch.GetTimestamp();
            await Parallel.ForEachAsync(users, new ParallelOptions { MaxDegreeOfParallelism = Callers }, async (user, cancel) =>
            {
                var change = System.Text.Json.JsonSerializer.SerializeToUtf8Bytes(
                    new UserChange(user.Email, user.Email, "Drained", user.UpdatedAt), UserJson.Default.UserChange);
                await queue.AcceptAsync($"{user.Id}", new(user.Version), null, change, cancel);
            });

            var filled = Stopwatch.GetElapsedTime(filling);
            var start = Stopwatch.GetTimestamp();
            await using (var released = new NpgsqlCommand("COMMIT", connection))
            {
                await released.ExecuteNonQueryAsync();
            }

            await EmptyAsync(app);
            Console.WriteLine(
                $"| {batchSize} | {drained / filled.TotalSeconds:N0} | {drained / Stopwatch.GetElapsedTime(start).TotalSeconds:N0} |");
            await app.StopAsync();
        }
    }

    private static async Task<(double PerSecond, double P50, double P99)> WritesAsync(
        UserService service, User[] users, WriteStrategy strategy)
    {
        var times = new ConcurrentBag<List<double>>();
        var start = Stopwatch.GetTimestamp();
        await Task.WhenAll(Enumerable.Range(0, Callers).Select(caller => Task.Run(async () =>
        {
            var (random, mine) = (new Random(caller), new List<double>());
            while (Stopwatch.GetElapsedTime(start) < Duration)
            {
                var user = users[random.Next(users.Length)];
                var began = Stopwatch.GetTimestamp();
                await service.UpdateAsync(user.Id, new() { Email = user.Email, DisplayName = $"{began}" }, null, strategy,
                    mayChangeEmail: false);
                mine.Add(Stopwatch.GetElapsedTime(began).TotalMilliseconds);
            }

            times.Add(mine);
        })));
        var elapsed = Stopwatch.GetElapsedTime(start).TotalSeconds;
        var sorted = times.SelectMany(time => time).Order().ToArray();
        return (sorted.Length / elapsed, sorted[sorted.Length / 2], sorted[sorted.Length * 99 / 100]);
    }

    private static async Task EmptyAsync(WebApplication app)
    {
        var queue = app.Services.GetRequiredKeyedService<WriteBehind>(UserCache.Users).Queue;
        while ((await queue.StateAsync(CancellationToken.None)).Length > 0)
        {
            await Task.Delay(20);
        }
    }

    private static async Task<User[]> FillAsync(string database, int count = Users)
    {
        await SqlAsync(
            database,
            "TRUNCATE users; INSERT INTO users (id, email, email_key, display_name, password_hash, created_at, updated_at) "
            + "SELECT gen_random_uuid(), n || '@example.org', n || '@example.org', 'User ' || n, '', now(), now() "
            + $"FROM generate_series(1, {count}) AS n");
        await SqlAsync(database, "VACUUM ANALYZE users");
        await using var postgres = NpgsqlDataSource.Create(database);
        return [.. (await new UserRepository(postgres).ListAsync(null, count, CancellationToken.None)).Users];
    }

    /// <summary>The service without its routes.</summary>
    private static async Task<WebApplication> StartAsync(string database, string redis, string state, int batchSize)
    {
        var builder = WebApplication.CreateEmptyBuilder(new());
        builder.Configuration.AddInMemoryCollection([
            new("ConnectionStrings:Postgres", database),
            new("ConnectionStrings:Redis", redis),
            new("ConnectionStrings:RedisState", state),
            new("Redis:KeyPrefix", $"bench-{Guid.NewGuid():N}"),
            new("Redis:StateDeadline", "00:00:05"),
            new("Cache:RedisDeadline", "00:00:05"),
            new("Database:ChangeCapture", "false"),
            new("WriteBehind:Capacity", "1000000"),
            new("WriteBehind:BatchSize", $"{batchSize}"),
            new("Serilog:MinimumLevel:Default", "Error"),
        ]);
        builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
        builder.AddApiConventions();
        builder.Services.AddRouting().AddPostgres().AddRedis().AddCaches().AddRateLimits().AddSessions().AddUsers();
        var app = builder.Build();
        await app.StartAsync();
        return app;
    }

    private static async Task SqlAsync(string connectionString, string sql)
    {
        await using var connection = new NpgsqlConnection(connectionString);
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand(sql, connection) { CommandTimeout = 120 };
        await command.ExecuteNonQueryAsync();
    }
}
