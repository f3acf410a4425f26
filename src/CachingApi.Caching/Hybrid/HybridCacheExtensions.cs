using Microsoft.Extensions.Caching.Hybrid;

namespace CachingApi.Caching.Hybrid;

/// <summary>The answer of <see cref="HybridCacheExtensions.TryGetAsync"/>.</summary>
/// <param name="Found">Whether the value is cached.</param>
/// <param name="Value">The value; the default of its type if it is not cached.</param>
public readonly record struct HybridCacheResult<T>(bool Found, T? Value);

/// <summary>What a factory can decide about the entry of the value that it returns. Its call has an instance of its own.</summary>
public sealed class HybridCacheLoad
{
    internal HybridCacheLoad(TimeSpan expiration) => Expiration = expiration;

    /// <summary>How long the value is kept, in memory and in Redis; at first what the entry options say.</summary>
    public TimeSpan Expiration { get; set; }

    /// <summary>Whether the value is kept at all. If not, the callers that wait are given it, and the next one loads again.</summary>
    public bool Keep { get; set; } = true;
}

/// <summary>What the engine's <see cref="HybridCache"/> can do beyond the abstract class.</summary>
public static class HybridCacheExtensions
{
    /// <summary>The value if it is cached. Nothing is loaded, and memory keeps what Redis has.</summary>
    /// <exception cref="NotSupportedException">The cache was not registered by <see cref="HybridCacheSetup.AddHybridCache"/>.</exception>
    public static ValueTask<HybridCacheResult<T>> TryGetAsync<T>(
        this HybridCache cache, string key, HybridCacheEntryOptions? options = null, CancellationToken cancellationToken = default) =>
        Tiered(cache).TryGetAsync<T>(key, options, cancellationToken);

    /// <summary>As <c>GetOrCreateAsync</c>; the factory decides how long its value is kept, or that it is not.</summary>
    /// <exception cref="NotSupportedException">The cache was not registered by <see cref="HybridCacheSetup.AddHybridCache"/>.</exception>
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
    /// <exception cref="NotSupportedException">The cache was not registered by <see cref="HybridCacheSetup.AddHybridCache"/>.</exception>
    public static void RemoveFromMemory(this HybridCache cache, string key) => Tiered(cache).RemoveFromMemory(key);

    private static TieredHybridCache Tiered(HybridCache cache) => cache as TieredHybridCache
        ?? throw new NotSupportedException($"{cache?.GetType()} cannot do this: register the cache by AddCaching().AddHybridCache().");
}
