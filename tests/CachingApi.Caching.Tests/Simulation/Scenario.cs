namespace CachingApi.Caching.Tests.Simulation;

/// <summary>A call of a client.</summary>
internal enum Operation
{
    Read,

    /// <summary>Reads a page, which contains the item, has no version, and is cleared by every write to the item.</summary>
    ReadPage,
    WriteThrough,
    Invalidate,
    WriteBehind,
    Create,
    Delete,
    Clear,
    Evict,

    /// <summary>Another program changes the row: the caches learn it from change data capture.</summary>
    ForeignWrite,
    ForeignDelete,
}

/// <summary>A fault of the world.</summary>
internal enum Fault
{
    /// <summary>The connection for messages of one process breaks.</summary>
    SubscriptionBreaks,

    /// <summary>A link between two nodes of a cluster fails, so messages are lost although every connection of the process works.</summary>
    MessagesAreLost,

    /// <summary>Both connections of one process to the cache's Redis break.</summary>
    NetworkBreaks,

    /// <summary>The connection of one process to the state server breaks.</summary>
    StateBreaks,

    /// <summary>The cache's Redis loses all keys.</summary>
    Flush,

    /// <summary>A replica that lacks the last commands takes the place of the cache's Redis.</summary>
    FailOver,

    /// <summary>
    /// The cache's Redis evicts the entries that are older than a second: see docs/guarantees.md for those that are younger.
    /// </summary>
    Eviction,

    /// <summary>A process is killed, and perhaps started again.</summary>
    Crash,
}

/// <summary>The work of a simulation's processes, and the faults that may happen.</summary>
/// <param name="Operations">The calls of the clients, each as likely as it is often in the list.</param>
internal sealed record Scenario(string Name, params Operation[] Operations)
{
    /// <summary>All scenarios, as <c>./dev explore</c> runs them.</summary>
    public static IReadOnlyList<Scenario> All { get; } =
    [
        new("reads and writes", Operation.Read, Operation.WriteThrough, Operation.Invalidate) { Processes = 2, Clients = 4 },
        new("clears and evictions", Operation.Read, Operation.WriteThrough, Operation.Clear, Operation.Evict)
        {
            Processes = 2, Clients = 4,
        },
        new("creations and deletions", Operation.Read, Operation.Read, Operation.Create, Operation.WriteThrough, Operation.Delete)
        {
            Processes = 2, Clients = 4, StartsEmpty = true,
        },
        new("values without a version", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Evict)
        {
            Processes = 2, Clients = 4, IsVersioned = false,
        },
        new("keys are evicted", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Invalidate)
        {
            Processes = 2, Clients = 4, Faults = [Fault.Eviction],
        },
        new("pages", Operation.ReadPage, Operation.ReadPage, Operation.Read, Operation.WriteThrough) { Processes = 2, Clients = 4 },
        new("pages, connections break", Operation.ReadPage, Operation.ReadPage, Operation.Read, Operation.WriteThrough)
        {
            Processes = 2, Clients = 4, Faults = [Fault.SubscriptionBreaks, Fault.MessagesAreLost, Fault.NetworkBreaks, Fault.Flush],
        },
        new("cold key", Operation.Read)
        {
            Processes = 3,
            Clients = 6,
            MaxOperations = 1,
            RedisDeadline = TimeSpan.FromSeconds(5),
            MaxHold = TimeSpan.FromMilliseconds(20),
            IsSwarm = false,
        },
        new("expiry", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Invalidate)
        {
            Processes = 2, Clients = 4, Ttl = TimeSpan.FromSeconds(1), StaleFor = TimeSpan.FromSeconds(20), SourceFails = true,
        },
        new("connections break", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Invalidate, Operation.Clear)
        {
            Processes = 3,
            Clients = 4,
            Faults = [Fault.SubscriptionBreaks, Fault.MessagesAreLost, Fault.NetworkBreaks, Fault.Flush, Fault.FailOver],
        },
        new("messages are lost", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Clear)
        {
            Processes = 2, Clients = 3, Faults = [Fault.SubscriptionBreaks, Fault.MessagesAreLost],
        },
        new("network breaks", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Invalidate, Operation.Clear)
        {
            Processes = 2, Clients = 4, Faults = [Fault.NetworkBreaks],
        },
        new("network breaks, loads are slow", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Invalidate)
        {
            Processes = 2, Clients = 4, LoadsAreSlow = true, Faults = [Fault.NetworkBreaks],
        },
        new("keys are lost", Operation.Read, Operation.Read, Operation.WriteThrough)
        {
            Processes = 2, Clients = 3, Faults = [Fault.Flush, Fault.FailOver],
        },
        new("processes crash", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Invalidate)
        {
            Processes = 3,
            Clients = 4,
            FollowsChanges = true,
            Rest = 3,
            Faults = [Fault.Crash, Fault.NetworkBreaks, Fault.Flush, Fault.FailOver],
        },
        new("other programs", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.ForeignWrite, Operation.ForeignDelete)
        {
            Processes = 2,
            Clients = 3,
            Ttl = TimeSpan.FromSeconds(1),
            StaleFor = TimeSpan.FromSeconds(20),
            SourceFails = true,
            FollowsChanges = true,
            Rest = 3,
            Faults = [Fault.Crash, Fault.NetworkBreaks, Fault.Flush],
        },
        new("other programs, evictions", Operation.Read, Operation.Read, Operation.ForeignWrite, Operation.Evict, Operation.Clear)
        {
            Processes = 2,
            Clients = 3,
            EndsWithEvictions = true,
            Faults = [Fault.Eviction, Fault.SubscriptionBreaks, Fault.NetworkBreaks, Fault.Flush],
        },
        new("several entities", Operation.Read, Operation.Read, Operation.WriteThrough, Operation.Invalidate, Operation.Evict)
        {
            Processes = 2, Clients = 4, Keys = ["k", "l"], Faults = [Fault.NetworkBreaks],
        },
        new("write-behind, several entities", Operation.WriteBehind, Operation.WriteBehind, Operation.Read, Operation.WriteThrough)
        {
            Processes = 2, Clients = 4, Keys = ["k", "l", "m"], FollowsChanges = true, Rest = 8, Faults = [Fault.Crash],
        },
        new("write-behind", Operation.Read, Operation.WriteBehind, Operation.WriteBehind, Operation.WriteThrough)
        {
            Processes = 2, Clients = 4, FollowsChanges = true, Rest = 8, Faults = [Fault.Crash, Fault.Flush],
        },
        new("write-behind, connections break", Operation.WriteBehind, Operation.Read, Operation.WriteBehind, Operation.WriteThrough)
        {
            Processes = 2,
            Clients = 4,
            Keys = ["k", "l"],
            FollowsChanges = true,
            Rest = 8,
            Faults = [Fault.StateBreaks, Fault.NetworkBreaks, Fault.Crash],
        },
        new("write-behind without capture", Operation.Read, Operation.WriteBehind)
        {
            Processes = 2, Clients = 4, Rest = 8, Faults = [Fault.Crash],
        },
    ];

    /// <summary>Whether the cache knows the versions of its values.</summary>
    public bool IsVersioned { get; init; } = true;

    /// <summary>The ids of the entities that the clients read and write.</summary>
    public IReadOnlyList<string> Keys { get; init; } = [Promises.OnPage];

    /// <summary>Whether all entities are evicted at last, because nothing else tells the caches of the changes of other programs.</summary>
    public bool EndsWithEvictions { get; init; }

    public int Processes { get; init; }

    public int Clients { get; init; }

    public int MaxOperations { get; init; } = 6;

    /// <summary>Whether the database has no row at first.</summary>
    public bool StartsEmpty { get; init; }

    /// <summary>The faults of which some happen.</summary>
    public IReadOnlyList<Fault> Faults { get; init; } = [];

    /// <summary>Whether many loads take long, so that others overtake them.</summary>
    public bool LoadsAreSlow { get; init; }

    /// <summary>Whether loads may fail.</summary>
    public bool SourceFails { get; init; }

    /// <summary>Whether a process follows the changes of the database, as change data capture does.</summary>
    public bool FollowsChanges { get; init; }

    /// <summary>For how many seconds at most the queue and change data capture catch up, after all faults have ended.</summary>
    public double Rest { get; init; }

    /// <summary>The longest time for which an event is held back.</summary>
    public TimeSpan MaxHold { get; init; } = TimeSpan.MaxValue;

    public TimeSpan RedisDeadline { get; init; } = TimeSpan.FromMilliseconds(50);

    public TimeSpan Ttl { get; init; } = TimeSpan.FromMinutes(10);

    public TimeSpan StaleFor { get; init; } = TimeSpan.Zero;

    /// <summary>Whether a run may use a part of it: see <see cref="Plan"/>.</summary>
    public bool IsSwarm { get; init; } = true;

    public bool WriteBehind => Operations.Contains(Operation.WriteBehind);
}
