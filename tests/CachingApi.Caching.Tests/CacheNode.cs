using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching.Tests;

/// <summary>
/// A process that has the engine and nothing else, with a key prefix of its own; a second one that shares the prefix of a first is
/// another process of the same service.
/// </summary>
internal sealed class CacheNode : IAsyncDisposable
{
    private readonly IHost _host;
    private readonly NodeMeters _meters;
    private readonly LogLines _log;

    private CacheNode(IHost host, LogLines log)
    {
        (_host, _log) = (host, log);
        _meters = new(host.Services.GetRequiredService<IMeterFactory>());
    }

    public IServiceProvider Services => _host.Services;

    public string KeyPrefix => Services.GetRequiredService<RedisConnections>().KeyPrefix;

    /// <summary>What it has logged.</summary>
    public IReadOnlyCollection<string> Log => _log;

    /// <summary>A Redis for the cache that is not the one that tests share; the latter stays the state's.</summary>
    public static Action<CachingOptions> On(string redis, TimeSpan? deadline = null) => options =>
    {
        options.Redis = redis;
        options.RedisDeadline = deadline ?? options.RedisDeadline;
    };

    /// <param name="configure">Changes the tests' own settings: the Redis that tests share is both the cache's and the state's.</param>
    /// <param name="nodeOf">The process whose keys this one shares.</param>
    /// <param name="services">Adds what is not part of the engine: caches, say.</param>
    /// <param name="log">From which level on <see cref="Log"/> has lines.</param>
    /// <param name="whenTrusted">
    /// Waits for the backplane, whose first heartbeat begins an epoch: what a read that it interrupts has found is not kept. And for
    /// every connection, because one that comes later ends trust for a second.
    /// </param>
    /// <param name="start">If not, the services of the host are not started, as in a program that builds its services only.</param>
    public static async Task<CacheNode> StartAsync(
        TestServers servers,
        Action<CachingOptions>? configure = null,
        CacheNode? nodeOf = null,
        TimeProvider? time = null,
        Action<IServiceCollection>? services = null,
        LogLevel log = LogLevel.Warning,
        bool whenTrusted = true,
        bool start = true)
    {
        var (builder, lines) = (Host.CreateEmptyApplicationBuilder(new()), new LogLines());
        builder.Logging.SetMinimumLevel(log).AddProvider(lines);
        if (time is not null)
        {
            builder.Services.AddSingleton(time);
        }

        var keyPrefix = nodeOf?.KeyPrefix ?? $"test-{Guid.NewGuid():N}";
        builder.Services.AddCaching(options =>
        {
            (options.Redis, options.RedisState, options.KeyPrefix) = (servers.Redis, servers.Redis, keyPrefix);
            // What is meant to be answered must not be given up on because the machine is busy.
            options.RedisDeadline = TimeSpan.FromSeconds(5);
            // Tests count loads and look-ups: those of the consistency checker turn it on.
            options.Verify = 0;
            configure?.Invoke(options);
        });
        builder.Services.Configure<RedisOptions>(redis => redis.StateDeadline = TimeSpan.FromSeconds(5));
        services?.Invoke(builder.Services);

        var node = new CacheNode(builder.Build(), lines);
        if (start)
        {
            await node._host.StartAsync();
        }

        if (start && whenTrusted && node.Services.GetRequiredService<RedisConnections>() is { IsConfigured: true } redis)
        {
            await Eventually.TrueAsync(() => redis.Cache.Multiplexer.GetServers().All(server => server.IsConnected), "every connection");
            await TrustedAsync(node);
        }

        return node;
    }

    /// <summary>Ends when nodes use Redis and memory, both of which begin with the first heartbeat of the backplane.</summary>
    public static async Task TrustedAsync(params CacheNode[] nodes)
    {
        foreach (var node in nodes)
        {
            await Eventually.TrueAsync(() => node.Services.GetRequiredService<Backplane>().IsTrusted
                && node.Services.GetRequiredService<RedisTier>().IsTrusted);
        }
    }

    /// <summary>
    /// The sum of all series of an instrument that have these labels: of a counter or a gauge its value, of a histogram how often
    /// something was recorded.
    /// </summary>
    public double Metric(string instrument, params (string Label, string Value)[] labels) => _meters.Sum(instrument, labels);

    /// <summary>How many recorded values of a histogram are no greater than a bound.</summary>
    public int Recorded(string histogram, double atMost, params (string Label, string Value)[] labels) =>
        _meters.Recorded(histogram, atMost, labels);

    /// <summary>Every series, as text: <c>redis.up{node="127.0.0.1:6379",role="cache"} 1</c>.</summary>
    public string[] Samples() => _meters.Samples();

    /// <summary>The keys of this process in the cache's Redis, without its prefix.</summary>
    public Task<string[]> KeysAsync() =>
        SharedRedis.KeysAsync(Services.GetRequiredService<IOptions<CachingOptions>>().Value.Redis!, KeyPrefix);

    /// <summary>Disposes the host without a stop, as a program does that forgets it.</summary>
    public void DisposeHost()
    {
        _meters.Dispose();
        _host.Dispose();
    }

    public async ValueTask DisposeAsync()
    {
        await _host.StopAsync();
        _meters.Dispose();
        await ((IAsyncDisposable)_host).DisposeAsync();
    }

    private sealed class LogLines : ConcurrentQueue<string>, ILoggerProvider, ILogger
    {
        public ILogger CreateLogger(string categoryName) => this;

        public bool IsEnabled(LogLevel logLevel) => true;

        public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

        public void Log<TState>(
            LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
            Enqueue($"{formatter(state, exception)} {exception}");

        public void Dispose()
        {
            // It holds nothing but lines.
        }
    }
}
