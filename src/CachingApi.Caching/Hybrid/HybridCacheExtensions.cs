using Microsoft.Extensions.Caching.Hybrid;

namespace CachingApi.Caching.Hybrid;

/// <summary>The answer of <see cref="HybridCacheExtensions.TryGetAsync"/>.</summary>
/// <param name="Found">Whether the value is cached.</param>
/// <param name="Value">The value; the default of its type if it is not cached.</param>
public readonly record struct HybridCacheResult<T>(bool Found, T? Value);

/// <summary>Lets a factory control how the value that it returns is cached. Each call of a factory has its own instance.</summary>
public sealed class HybridCacheLoad
{
    internal HybridCacheLoad(TimeSpan expiration) => Expiration = expiration;

    /// <summary>
    /// How long the value is kept in Redis. The entry options give the initial value. Memory keeps it as long, but no longer than
    /// <see cref="HybridCacheEntryOptions.LocalCacheExpiration"/>.
    /// </summary>
    public TimeSpan Expiration { get; set; }

    /// <summary>Whether the value is cached. If not, the waiting callers receive it, and the next caller loads again.</summary>
    public bool Keep { get; set; } = true;
}

/// <summary>Operations of the engine's <see cref="HybridCache"/> that the abstract class does not have.</summary>
public static class HybridCacheExtensions
{
    /// <summary>The value if it is cached, without a load. If only Redis has the entry, memory keeps it, too.</summary>
    /// <exception cref="NotSupportedException">The cache was not registered by <see cref="CachingBuilder.AddHybridCache"/>.</exception>
    public static ValueTask<HybridCacheResult<T>> TryGetAsync<T>(
        this HybridCache cache, string key, HybridCacheEntryOptions? options = null, CancellationToken cancellationToken = default) =>
        Tiered(cache).TryGetAsync<T>(key, options, cancellationToken);

    /// <summary>As <c>GetOrCreateAsync</c>, but the factory decides whether its value is cached, and for how long.</summary>
    /// <exception cref="NotSupportedException">The cache was not registered by <see cref="CachingBuilder.AddHybridCache"/>.</exception>
    public static ValueTask<T> GetOrCreateAsync<TState, T>(
        this HybridCache cache,
        string key,
        TState state,
        Func<TState, HybridCacheLoad, CancellationToken, ValueTask<T>> factory,
        HybridCacheEntryOptions? options = null,
        IEnumerable<string>? tags = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(factory);
        return Tiered(cache).GetOrCreateAsync(key, state, factory, options, tags, cancellationToken);
    }

    /// <inheritdoc cref="GetOrCreateAsync{TState, T}"/>
    public static ValueTask<T> GetOrCreateAsync<T>(
        this HybridCache cache,
        string key,
        Func<HybridCacheLoad, CancellationToken, ValueTask<T>> factory,
        HybridCacheEntryOptions? options = null,
        IEnumerable<string>? tags = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(factory);
        return Tiered(cache).GetOrCreateAsync(
            key, factory, static (factory, load, cancel) => factory(load, cancel), options, tags, cancellationToken);
    }

    /// <summary>Removes an entry from the memory of this process alone: the next read asks Redis.</summary>
    /// <exception cref="NotSupportedException">The cache was not registered by <see cref="CachingBuilder.AddHybridCache"/>.</exception>
    public static void RemoveFromMemory(this HybridCache cache, string key) => Tiered(cache).RemoveFromMemory(key);

    private static TieredHybridCache Tiered(HybridCache cache) => cache as TieredHybridCache
        ?? throw new NotSupportedException($"{cache?.GetType()} cannot do this: register the cache with AddCaching().AddHybridCache().");
}
