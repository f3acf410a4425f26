using CachingApi.Caching;
using CachingApi.Caching.Hybrid;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.Caching.Hybrid;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace CachingApi.Tests.Caching.Hybrid;

/// <summary>An implementation of the abstract class.</summary>
public enum Implementation
{
    Microsoft,
    Ours,
}

/// <summary>A process that uses a <see cref="HybridCache"/>: the library alone, without the service.</summary>
internal sealed class HybridNode : IAsyncDisposable
{
    private readonly ServiceProvider _services;

    private HybridNode(Implementation implementation, ServiceProvider services, string? redis, string prefix)
    {
        (Implementation, _services, Redis, Prefix) = (implementation, services, redis, prefix);
        Cache = services.GetRequiredService<HybridCache>();
    }

    public Implementation Implementation { get; }

    public HybridCache Cache { get; }

    public IServiceProvider Services => _services;

    public string? Redis { get; }

    public string Prefix { get; }

    /// <summary>The tags that the process tracks; only with the library's implementation.</summary>
    public TagTable Tags => _services.GetRequiredService<TieredHybridCache>().Tags;

    /// <param name="redis"><c>null</c> for memory alone.</param>
    public static async Task<HybridNode> StartAsync(
        Implementation implementation,
        string? redis,
        Action<IServiceCollection>? services = null,
        Action<HybridCacheSettings>? settings = null,
        TimeSpan? deadline = null,
        string? prefix = null)
    {
        prefix ??= $"hybrid-{Guid.NewGuid():N}";
        var collection = new ServiceCollection().AddLogging();
        if (implementation is Implementation.Microsoft)
        {
            AddMicrosoft(collection, redis, settings, prefix);
        }
        else
        {
            collection
                .AddCaching(options =>
                {
                    (options.Redis, options.KeyPrefix) = (redis, prefix);
                    options.RedisDeadline = deadline ?? TimeSpan.FromSeconds(5);
                })
                .AddHybridCache(settings);
        }

        services?.Invoke(collection);
        var node = new HybridNode(implementation, collection.BuildServiceProvider(), redis, prefix);
        await node.StartAsync();
        return node;
    }

    /// <summary>Another process on the same Redis.</summary>
    public Task<HybridNode> StartOtherAsync() => StartAsync(Implementation, Redis, prefix: Prefix);

    /// <summary>The value in memory alone; the default of the type if memory has none.</summary>
    public ValueTask<T> InMemoryAsync<T>(string key) => Cache.GetOrCreateAsync<T>(
        key,
        _ => throw new InvalidOperationException("Nothing is to be loaded."),
        new() { Flags = HybridCacheEntryFlags.DisableDistributedCache | HybridCacheEntryFlags.DisableUnderlyingData });

    /// <summary>The value in Redis alone; the default of the type if Redis has none.</summary>
    public ValueTask<T> InRedisAsync<T>(string key) => Cache.GetOrCreateAsync<T>(
        key,
        _ => throw new InvalidOperationException("Nothing is to be loaded."),
        new() { Flags = HybridCacheEntryFlags.DisableLocalCache | HybridCacheEntryFlags.DisableUnderlyingData });

    /// <summary>The cached value; the default of the type if there is none.</summary>
    public ValueTask<T> InRedisOrMemoryAsync<T>(string key) => Cache.GetOrCreateAsync<T>(
        key,
        _ => throw new InvalidOperationException("Nothing is to be loaded."),
        new() { Flags = HybridCacheEntryFlags.DisableUnderlyingData });

    /// <summary>Ends when Redis has a value: Microsoft's implementation returns before it writes to Redis.</summary>
    public Task StoredAsync(string key) => Redis is not null && _services.GetService<IDistributedCache>() is { } redis
        ? Eventually.TrueAsync(async () => await redis.GetAsync(key) is not null, "the value in Redis")
        : Task.CompletedTask;

    public async ValueTask DisposeAsync()
    {
        foreach (var service in _services.GetServices<IHostedService>())
        {
            await service.StopAsync(CancellationToken.None);
        }

        await _services.DisposeAsync();
    }

    private static void AddMicrosoft(IServiceCollection services, string? redis, Action<HybridCacheSettings>? configure, string prefix)
    {
        if (redis is not null)
        {
            services.AddStackExchangeRedisCache(options => (options.Configuration, options.InstanceName) = (redis, prefix));
        }

        var settings = new HybridCacheSettings();
        configure?.Invoke(settings);
        services.AddHybridCache(options =>
        {
            options.DefaultEntryOptions = settings.DefaultEntryOptions;
            (options.MaximumKeyLength, options.MaximumPayloadBytes) = (settings.MaximumKeyLength, settings.MaximumPayloadBytes);
        });
    }

    private async Task StartAsync()
    {
        foreach (var service in _services.GetServices<IHostedService>())
        {
            await service.StartAsync(CancellationToken.None);
        }

        if (Implementation is Implementation.Ours && Redis is not null)
        {
            var (backplane, tier) = (_services.GetRequiredService<Backplane>(), _services.GetRequiredService<RedisTier>());
            await Eventually.TrueAsync(() => backplane.IsTrusted && tier.IsTrusted, "the backplane to be trusted");
        }
    }
}

/// <summary>A source that a test controls: its value, its loads, and a gate that holds loads after they have read the value.</summary>
internal sealed class Source<T>(T value)
{
    private readonly TaskCompletionSource _read = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private TaskCompletionSource? _gate;
    private int _loads;

    public T Value { get; set; } = value;

    public int Loads => Volatile.Read(ref _loads);

    /// <summary>Ends when the first load has read the value.</summary>
    public Task HasRead => _read.Task;

    /// <summary>Loads wait from now on, after they have read the value.</summary>
    public void Hold() => _gate = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public void Release() => _gate!.TrySetResult();

    public async ValueTask<T> LoadAsync(CancellationToken cancel)
    {
        Interlocked.Increment(ref _loads);
        var read = Value;
        _read.TrySetResult();
        if (_gate is { } gate)
        {
            await gate.Task.WaitAsync(cancel);
        }

        return read;
    }
}
