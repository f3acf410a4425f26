using System.ComponentModel.DataAnnotations;
using System.Diagnostics;
using CachingApi.Redis;
using Microsoft.Extensions.Options;
using Npgsql;

namespace CachingApi.Storage;

/// <summary>The connection strings of PostgreSQL and Redis: the section <c>ConnectionStrings</c>.</summary>
internal sealed class ConnectionStrings
{
    [Required(ErrorMessage = "a PostgreSQL connection string is needed")]
    public string Postgres { get; init; } = "";

    [Required(ErrorMessage = "a Redis connection string is needed")]
    public string Redis { get; init; } = "";

    /// <summary>A second Redis for state that must not be lost (sessions). If it is empty, the first Redis holds the state.</summary>
    public string RedisState { get; init; } = "";
}

internal static class StorageSetup
{
    public static IServiceCollection AddPostgres(this IServiceCollection services)
    {
        services.AddValidatedOptions<ConnectionStrings>("ConnectionStrings");
        services.AddValidatedOptions<DatabaseOptions>("Database");
        services.AddSingleton(provider =>
        {
            var connections = provider.GetRequiredService<IOptions<ConnectionStrings>>().Value;
            // The name is the label of its metrics instead of host and user.
            return new NpgsqlDataSourceBuilder(Bounded(connections.Postgres)) { Name = "cachingapi" }
                .ConfigureTracing(tracing => tracing
                    .ConfigureCommandFilter(_ => Activity.Current is not null)
                    .EnablePhysicalOpenTracing(false))
                .Build();
        });
        return services.AddHostedService<Migrations>().AddHostedService<PostgresUp>();
    }

    /// <summary>The command <c>migrate</c>: migrates the schema and ends. It needs PostgreSQL only.</summary>
    public static async Task<int> MigrateAsync(this WebApplicationBuilder builder)
    {
        var connections = builder.Configuration.GetSection("ConnectionStrings").Get<ConnectionStrings>() ?? new();
        if (connections.Postgres.Length == 0)
        {
            await Console.Error.WriteLineAsync("ConnectionStrings:Postgres is needed, for the role that owns the schema.");
            return 1;
        }

        builder.Services.AddOptions<ConnectionStrings>().BindConfiguration("ConnectionStrings");
        builder.Services.AddOptions<DatabaseOptions>().BindConfiguration("Database");
        builder.Services.AddSingleton(NpgsqlDataSource.Create(connections.Postgres)).AddSingleton<Migrations>();
        await using var app = builder.Build();
        await app.Services.GetRequiredService<Migrations>().StartAsync(app.Lifetime.ApplicationStopping);
        return 0;
    }

    public static IServiceCollection AddRedis(this IServiceCollection services)
    {
        services.AddValidatedOptions<RedisOptions>("Redis");
        services.AddOptions<RedisOptions>().Configure<IOptions<ConnectionStrings>>(
            (redis, connections) => (redis.Cache, redis.State) = (connections.Value.Redis, connections.Value.RedisState));
        return services.AddSingleton<RedisConnections>()
            .AddSingleton<RedisInfo>()
            .AddHostedService(provider => provider.GetRequiredService<RedisInfo>());
    }

    /// <summary>
    /// Bounds the time that a request waits for a hanging server to seconds, unless the connection string sets another time.
    /// </summary>
    private static string Bounded(string connectionString)
    {
        var bounded = new NpgsqlConnectionStringBuilder(connectionString);
        bounded.Timeout = bounded.ContainsKey("Timeout") ? bounded.Timeout : 3;
        bounded.CommandTimeout = bounded.ContainsKey("Command Timeout") ? bounded.CommandTimeout : 5;
        return bounded.ConnectionString;
    }
}
