using CachingApi.Orders;

namespace CachingApi.Lab.Contenders;

/// <summary>How a cache is set up in an experiment. Each contender translates it into its own options.</summary>
internal sealed record Setup
{
    /// <summary>How long an entry is fresh.</summary>
    public required TimeSpan Ttl { get; init; }

    /// <summary>How long an entry may stay in memory; zero: memory is not used. By default, as long as it is fresh.</summary>
    public TimeSpan? MemoryTtl { get; init; }

    /// <summary>How long "not found" is cached, if the contender has a lifetime for it.</summary>
    public TimeSpan NegativeTtl { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>The part of the lifetime that is random.</summary>
    public double Jitter { get; init; }

    /// <summary>Whether an entry is loaded again before it expires.</summary>
    public bool EarlyRefresh { get; init; }

    /// <summary>Whether FusionCache uses its distributed locker.</summary>
    public bool Locker { get; init; }

    /// <summary>Whether slow and failing servers are provided for, as the contender's documentation recommends.</summary>
    public bool Resilient { get; init; }

    /// <summary>Whether changes can be written behind.</summary>
    public bool WriteBehind { get; init; }

    /// <summary>The Redis of the cache, if it is not the lab's.</summary>
    public string? Redis { get; init; }

    public bool InMemory => MemoryTtl != TimeSpan.Zero;
}

/// <summary>What a writer does to the cache.</summary>
internal enum Update
{
    /// <summary>Nothing: the entry expires.</summary>
    None,

    /// <summary>Removes the entry after the commit.</summary>
    Invalidate,

    /// <summary>Replaces the entry after the commit.</summary>
    Replace,

    /// <summary>Replaces the entry; the commit follows.</summary>
    Behind,
}

/// <summary>A cache of orders, in one instance of a service.</summary>
internal interface INode : IAsyncDisposable
{
    /// <summary>The options of the cache, for the page.</summary>
    string Settings { get; }

    Task<Order?> GetAsync(string id, CancellationToken cancel);

    /// <summary>Changes an order. Returns its version when the writer receives its answer.</summary>
    Task<long> WriteAsync(string id, int quantity, Update update, CancellationToken cancel);

    /// <summary>After an insert by other code, so that readers find the new order.</summary>
    Task CreatedAsync(Order order, CancellationToken cancel);
}

/// <summary>A candidate of the comparison.</summary>
/// <param name="Name">As the pictures and the page name it.</param>
internal sealed record Contender(string Name, Func<Lab, Source, string, Setup, CancellationToken, Task<INode>> StartAsync)
{
    public static readonly Contender Without = new("without", PlainNode.StartAsync);

    public static readonly Contender Ours = new("this library", LibraryNode.StartAsync);

    public static readonly Contender Fusion = new("FusionCache", FusionNode.StartAsync);

    public static readonly Contender Hybrid = new("HybridCache", HybridNode.StartAsync);

    public static IReadOnlyList<Contender> All { get; } = [Without, Hybrid, Fusion, Ours];
}
