using CachingApi.Caching.Operations;
using CachingApi.Redis;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>Registers the caching engine.</summary>
public static class CachingSetup
{
    /// <summary>Adds the engine and applies the options. Further calls only apply their options.</summary>
    public static CachingBuilder AddCaching(this IServiceCollection services, Action<CachingOptions>? configure = null)
    {
        if (configure is not null)
        {
            services.Configure(configure);
        }

        if (services.All(service => service.ServiceType != typeof(CacheEngine)))
        {
            AddOptions(services);
            AddTiers(services);
            AddRecovery(services);
            AddPatterns(services);
        }

        return new(services);
    }

    private static void AddOptions(IServiceCollection services)
    {
        services.AddOptions<RedisOptions>().PostConfigure<IOptions<CachingOptions>>((redis, caching) =>
        {
            redis.Cache = caching.Value.Redis ?? redis.Cache;
            redis.State = caching.Value.RedisState ?? redis.State;
            redis.KeyPrefix = caching.Value.KeyPrefix ?? redis.KeyPrefix;
            redis.CacheDeadline = caching.Value.RedisDeadline;
        });
        services.AddOptionsWithValidateOnStart<RedisOptions>();
        services.AddOptionsWithValidateOnStart<CachingOptions>();
        services.AddOptionsWithValidateOnStart<WriteBehindOptions>();

        // A service may have its own validators, whose messages name the section of its configuration.
        services.TryAddSingleton<IValidateOptions<RedisOptions>, RedisOptionsValidator>();
        services.TryAddSingleton<IValidateOptions<CachingOptions>, CachingOptionsValidator>();
        services.TryAddSingleton<IValidateOptions<WriteBehindOptions>, WriteBehindOptionsValidator>();
        services.TryAddSingleton<IValidateOptions<CacheOptions>, CacheOptionsValidator>();
    }

    private static void AddTiers(IServiceCollection services)
    {
        services.TryAddSingleton(TimeProvider.System);
        services.TryAddSingleton<RedisConnections>();
        services
            .AddMetrics()
            .AddSingleton<CacheMetrics>()
            .AddSingleton(provider => new CircuitBreaker(provider.GetRequiredService<IOptions<CachingOptions>>().Value.RedisDeadline))
            .AddSingleton<Incarnations>()
            .AddSingleton<SeenRevisions>()
            .AddSingleton<AutoRecoveryQueue>()
            .AddSingleton<Backplane>()
            .AddHostedService(provider => provider.GetRequiredService<Backplane>())
            .AddSingleton<RedisCalls>()
            .AddSingleton<RedisTier>()
            .AddSingleton<Namespaces>()
            .AddSingleton<MemoryTier>()
            .AddSingleton<Tiers>();
    }

    private static void AddPatterns(IServiceCollection services) => services
        .AddSingleton(provider => new SingleFlight<CacheResult>(provider.GetRequiredService<IOptions<CachingOptions>>().Value.LoadTimeout))
        .AddSingleton<Leases>()
        .AddSingleton(_ => new EarlyRefresh(Random.Shared.NextDouble))
        .AddSingleton<EntrySizeLimit>()
        .AddSingleton<Bulkheads>()
        .AddSingleton<LoadLimits>()
        .AddSingleton<CacheAside>()
        .AddSingleton<WriteThrough>()
        .AddSingleton<Invalidation>()
        .AddSingleton<Inspection>()
        .AddSingleton<CacheEngine>()
        .AddSingleton(provider => new Warming(
            provider.GetServices<Cache>(),
            provider.GetRequiredService<RedisConnections>(),
            provider.GetRequiredService<RedisTier>(),
            provider.GetRequiredService<Backplane>(),
            provider.GetRequiredService<TimeProvider>(),
            provider.GetRequiredService<ILogger<Warming>>()))
        .AddHostedService(provider => provider.GetRequiredService<Warming>());

    private static void AddRecovery(IServiceCollection services) => services
        .AddSingleton<IncarnationWatch>()
        .AddSingleton<Replay>()
        .AddHostedService<RedisRecovery>()
        .AddSingleton(provider => new CachingHealth(provider.GetRequiredService<RedisTier>(), provider.GetRequiredService<RedisCalls>()))
        .AddSingleton(provider => new SourceChanges(
            provider.GetRequiredService<RedisConnections>(),
            provider.GetRequiredService<RedisTier>(),
            provider.GetRequiredService<AutoRecoveryQueue>(),
            provider.GetRequiredService<Incarnations>()))
        .AddSingleton<ConsistencyChecker>()
        .AddHostedService(provider => provider.GetRequiredService<ConsistencyChecker>());
}

/// <summary>A name that a cache has taken.</summary>
internal sealed record CacheName(string Name);

/// <summary>Adds caches to the engine.</summary>
public sealed partial class CachingBuilder
{
    internal CachingBuilder(IServiceCollection services) => Services = services;

    /// <summary>The services that the caches are added to.</summary>
    public IServiceCollection Services { get; }

    /// <summary>Adds a cache. A service injects it as <see cref="Cache{T}"/>; administration and metrics find it by its name.</summary>
    /// <param name="name">The name in keys, metrics and configuration: lower-case letters, digits and hyphens.</param>
    public CachingBuilder AddCache<T>(string name, Action<CacheBuilder<T>> configure) where T : class
    {
        ArgumentNullException.ThrowIfNull(configure);
        if (name.Length == 0 || !name.All(letter => letter is (>= 'a' and <= 'z') or (>= '0' and <= '9') or '-'))
        {
            throw new ArgumentException("The name of a cache may contain only lower-case letters, digits and hyphens.", nameof(name));
        }

        if (Services.Any(service => service.ServiceType == typeof(Cache<T>)))
        {
            throw new InvalidOperationException($"A cache of {typeof(T).Name} is already registered: give the second one another type.");
        }

        if (Services.Any(service => service.ImplementationInstance is CacheName taken && taken.Name == name))
        {
            throw new InvalidOperationException($"A cache with the name {name} is already registered.");
        }

        var builder = new CacheBuilder<T>(Services, name);
        configure(builder);
        Services.AddSingleton(new CacheName(name));
        Services.AddSingleton(builder.Build);
        Services.AddSingleton<Cache>(provider => provider.GetRequiredService<Cache<T>>());
        return this;
    }
}
