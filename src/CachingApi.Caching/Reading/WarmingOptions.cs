namespace CachingApi.Caching;

/// <summary>How a cache is warmed.</summary>
public sealed class WarmingOptions
{
    /// <summary>How many entries are loaded at the same time.</summary>
    public int Parallelism { get; set; } = 4;

    /// <summary>How many of the most valuable entries are loaded at start.</summary>
    public Func<IServiceProvider, int> AtStart { get; set; } = _ => 0;

    /// <summary>Whether a key names an entity.</summary>
    public Func<string, bool> IsKey { get; set; } = _ => true;

    /// <summary>The form of the keys, as the subject of a message, such as <c>A UUID</c>.</summary>
    public string KeyForm { get; set; } = "The id of an entity";

    /// <summary>
    /// Loads the entity that a key names, through the cache. If <c>null</c>, the key is the id of an entry, and the cache's loader loads
    /// it.
    /// </summary>
    public Func<IServiceProvider, string, CancellationToken, Task>? Load { get; set; }
}

/// <summary>The warming of one cache: see <see cref="WarmingOptions"/>.</summary>
/// <param name="TopAsync">Returns the keys that are most worth loading; its argument is the maximum number of keys.</param>
internal sealed record WarmingPlan(
    WarmingOptions Options, IServiceProvider Services, Func<int, CancellationToken, Task<IReadOnlyList<string>>> TopAsync)
{
    public int AtStart { get; } = Options.AtStart(Services);

    public bool IsKey(string key) => Options.IsKey(key);
}
