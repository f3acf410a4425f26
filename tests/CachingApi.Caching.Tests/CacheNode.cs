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
/// A process with only the engine and its own key prefix. A second one with the same prefix is another process of the same service.
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

    /// <summary>The lines that the process has logged.</summary>
    public IReadOnlyCollection<string> Log => _log;

    /// <summary>Uses another Redis for the cache; the Redis that tests share stays the state's.</summary>
    public static Action<CachingOptions> On(string redis, TimeSpan? deadline = null) => options =>
    {
        options.Redis = redis;
        options.RedisDeadline = deadline ?? options.RedisDeadline;
    };

    /// <param name="configure">
    /// Changes the tests' settings, in which the Redis that tests share is both the cache's and the state's.
    /// </param>
    /// <param name="nodeOf">The process whose keys this one shares.</param>
    /// <param name="services">Adds services that are not part of the engine, such as caches.</param>
    /// <param name="log">The lowest level of the lines in <see cref="Log"/>.</param>
    /// <param name="whenTrusted">
    /// Waits for the backplane, because its first heartbeat begins an epoch, so the result of a read that it interrupts is not kept. Also
    /// waits for every connection, because a later one ends trust for a second.
    /// </param>
    /// <param name="start"><c>false</c>: the services of the host are not started, as in a program that only builds its services.</param>
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
            // A busy machine must not cause time-outs of calls that a test expects to succeed.
            options.RedisDeadline = TimeSpan.FromSeconds(5);
            // Tests count loads and look-ups, so only tests of the consistency checker turn it on.
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

    /// <summary>Ends when the nodes use Redis and memory, which they do from the first heartbeat of the backplane on.</summary>
    public static async Task TrustedAsync(params CacheNode[] nodes)
    {
        foreach (var node in nodes)
        {
            await Eventually.TrueAsync(() => node.Services.GetRequiredService<Backplane>().IsTrusted
                && node.Services.GetRequiredService<RedisTier>().IsTrusted);
        }
    }

    /// <summary>
    /// The sum of all series of an instrument with these labels: the value of a counter or a gauge, the number of records of a histogram.
    /// </summary>
    public double Metric(string instrument, params (string Label, string Value)[] labels) => _meters.Sum(instrument, labels);

    /// <summary>The number of recorded values of a histogram up to a bound.</summary>
    public int Recorded(string histogram, double atMost, params (string Label, string Value)[] labels) =>
        _meters.Recorded(histogram, atMost, labels);

    /// <summary>Every series, as text: <c>redis.up{node="127.0.0.1:6379",role="cache"} 1</c>.</summary>
    public string[] Samples() => _meters.Samples();

    /// <summary>The keys of this process in the cache's Redis, without its prefix.</summary>
    public Task<string[]> KeysAsync() =>
        SharedRedis.KeysAsync(Services.GetRequiredService<IOptions<CachingOptions>>().Value.Redis!, KeyPrefix);

    /// <summary>Disposes the host without stopping it, which a program may omit.</summary>
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
            // It only holds lines.
        }
    }
}
