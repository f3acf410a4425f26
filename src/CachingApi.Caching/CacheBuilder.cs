using System.Diagnostics.CodeAnalysis;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Redis;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>Declares a cache: how its values are written as JSON, ordered, loaded, warmed and written behind.</summary>
public sealed partial class CacheBuilder<T> where T : class
{
    private readonly List<Action<IServiceProvider, CacheDefinition<T>>> _parts = [];
    private Func<IServiceProvider, CacheOptions> _options;
    private Func<IServiceProvider, JsonTypeInfo<T>>? _json;

    internal CacheBuilder(IServiceCollection services, string name)
    {
        (Services, Name) = (services, name);
        _options = provider => provider.GetRequiredService<IOptionsMonitor<CacheOptions>>().Get(name);
    }

    /// <summary>The services that the cache is added to.</summary>
    public IServiceCollection Services { get; }

    /// <summary>The name of the cache.</summary>
    public string Name { get; }

    /// <summary>Sets the lifetimes.</summary>
    public CacheBuilder<T> Configure(Action<CacheOptions> configure)
    {
        Services.Configure(Name, configure);
        return this;
    }

    /// <summary>Takes the lifetimes from options that are registered as <typeparamref name="TOptions"/>.</summary>
    public CacheBuilder<T> Options<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicParameterlessConstructor)] TOptions>()
        where TOptions : CacheOptions
    {
        _options = provider => provider.GetRequiredService<IOptions<TOptions>>().Value;
        return this;
    }

    /// <summary>The JSON of the values. A cached body has the shape of this type; entries of another shape are not read.</summary>
    public CacheBuilder<T> Json(JsonTypeInfo<T> json) => Json(_ => json);

    /// <inheritdoc cref="Json(JsonTypeInfo{T})"/>
    public CacheBuilder<T> Json(Func<IServiceProvider, JsonTypeInfo<T>> json)
    {
        _json = json;
        return this;
    }

    /// <summary>
    /// Reads the version of a value, which grows with each write and orders entries. Without it, leases protect the entry.
    /// </summary>
    public CacheBuilder<T> Version(Func<T, long> version) => With((_, cache) => cache.Version = version);

    /// <summary>
    /// Reads the number that orders equal versions: the fencing token of the write that made the value. For values without a version: a
    /// number that grows with every state of the source.
    /// </summary>
    public CacheBuilder<T> Fence(Func<T, long> fence) => With((_, cache) => cache.Fence = fence);

    /// <summary>
    /// Reads the time until which a value that is loaded now is fresh; <see cref="CacheOptions.Ttl"/> is the upper bound.
    /// </summary>
    public CacheBuilder<T> FreshUntil(Func<IServiceProvider, Func<T, DateTimeOffset, DateTimeOffset>> freshUntil) =>
        With((provider, cache) => cache.FreshUntil = freshUntil(provider));

    /// <summary>
    /// The values cannot be changed: all readers of an entry in memory share one object, which is deserialised once.
    /// </summary>
    public CacheBuilder<T> Immutable() => With((_, cache) => cache.IsImmutable = true);

    /// <summary>Entries of this cache only expire; nothing invalidates them. So memory serves them even without the backplane.</summary>
    public CacheBuilder<T> ExpiresOnly() => With((_, cache) => cache.RequiresBackplane = false);

    /// <summary>
    /// Loads an entity from the source; <c>null</c> means that it does not exist. Each load runs in its own service scope.
    /// </summary>
    public CacheBuilder<T> LoadWith<TService>(Func<TService, string, CancellationToken, Task<T?>> load) where TService : notnull =>
        With((provider, cache) =>
        {
            var scopes = provider.GetRequiredService<IServiceScopeFactory>();
            cache.Load = async (id, cancel) =>
            {
                await using var scope = scopes.CreateAsyncScope();
                return await load(scope.ServiceProvider.GetRequiredService<TService>(), id, cancel);
            };
        });

    /// <summary>Clears these caches after every write. They depend on many entities of this cache, as pages of a list do.</summary>
    public CacheBuilder<T> Clears(params string[] caches) => With((_, cache) => cache.Dependents = [.. cache.Dependents, .. caches]);

    /// <summary>Loads entries before clients request them: at start, or as a job that an administrator starts.</summary>
    /// <param name="top">Returns the keys of the entities that are most worth loading; its argument is the maximum number of keys.</param>
    public CacheBuilder<T> WarmWith<TService>(
        Func<TService, int, CancellationToken, Task<IReadOnlyList<string>>> top, Action<WarmingOptions>? configure = null)
        where TService : notnull => With((provider, cache) =>
        {
            var options = new WarmingOptions();
            configure?.Invoke(options);
            var scopes = provider.GetRequiredService<IServiceScopeFactory>();
            cache.Warming = new(options, provider, async (count, cancel) =>
            {
                await using var scope = scopes.CreateAsyncScope();
                return await top(scope.ServiceProvider.GetRequiredService<TService>(), count, cancel);
            });
        });

    /// <summary>Enables write-behind: see <see cref="IWriteBehind{T, TChange}"/>.</summary>
    /// <param name="json">The JSON of a change in the queue.</param>
    public CacheBuilder<T> WriteBehindWith<
        [DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] TWriter, TChange>(
        JsonTypeInfo<TChange> json, Action<WriteBehindSettings>? configure = null)
        where TWriter : class, IWriteBehind<T, TChange>
        where TChange : class
    {
        var settings = new WriteBehindSettings { Queue = $"write-behind:{Name}" };
        configure?.Invoke(settings);
        Services.TryAddSingleton<WriteBehindMetrics>();
        Services.TryAddSingleton<TWriter>();
        Services.AddKeyedSingleton(Name, (provider, _) => new WriteBehind(
            new WriteBehindQueue(
                Name,
                settings.Queue,
                provider.GetRequiredService<RedisConnections>(),
                provider.GetRequiredService<IOptions<WriteBehindOptions>>(),
                provider.GetRequiredService<TimeProvider>()),
            provider.GetRequiredService<RedisConnections>(),
            provider.GetRequiredService<IOptions<WriteBehindOptions>>(),
            provider.GetRequiredService<WriteBehindMetrics>())
        {
            RequiredBy = settings.RequiredBy(provider),
        });
        Services.AddSingleton<IHostedService>(provider => new WriteBehindConsumer(
            provider.GetRequiredKeyedService<WriteBehind>(Name),
            provider.GetRequiredService<Cache<T>>().Target!,
            provider.GetRequiredService<IOptions<WriteBehindOptions>>(),
            provider.GetRequiredService<WriteBehindMetrics>(),
            provider.GetRequiredService<TimeProvider>(),
            provider.GetRequiredService<ILogger<WriteBehindConsumer>>()));
        return With((provider, definition) => definition.Target = cache =>
            new WriteBehindTarget<T, TWriter, TChange>(cache, provider.GetRequiredService<IServiceScopeFactory>(), json));
    }

    internal Cache<T> Build(IServiceProvider provider)
    {
        var definition = new CacheDefinition<T>(Name);
        foreach (var part in _parts)
        {
            part(provider, definition);
        }

        var options = _options(provider);
        foreach (var validator in provider.GetServices<IValidateOptions<CacheOptions>>())
        {
            if (validator.Validate(Name, options) is { Failed: true, Failures: var failures })
            {
                throw new OptionsValidationException(Name, typeof(CacheOptions), failures);
            }
        }

        if (definition is { Target: not null, Version: null })
        {
            throw new InvalidOperationException($"The cache {Name} has write-behind, which needs a version: declare it with Version.");
        }

        foreach (var unknown in definition.Dependents.Except(provider.GetServices<CacheName>().Select(declared => declared.Name)))
        {
            Log.UnknownDependent(provider.GetRequiredService<ILogger<CacheEngine>>(), Name, unknown);
        }

        var json = _json ?? throw new InvalidOperationException($"The cache {Name} has no JSON: declare it with Json.");
        return new(
            definition,
            options,
            new JsonFormat<T>(json(provider)),
            provider.GetRequiredService<CacheEngine>(),
            definition.Target is null || !provider.GetRequiredService<RedisConnections>().IsConfigured
                ? null
                : provider.GetRequiredKeyedService<WriteBehind>(Name));
    }

    private CacheBuilder<T> With(Action<IServiceProvider, CacheDefinition<T>> part)
    {
        _parts.Add(part);
        return this;
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning, "The cache {Cache} clears {Dependent}, but this service has no cache of that name")]
        public static partial void UnknownDependent(ILogger log, string cache, string dependent);
    }
}
