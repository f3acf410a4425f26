using CachingApi.Caching.Operations;
using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>A cache with values of any type. Its members are thread-safe.</summary>
public abstract class Cache
{
    private readonly CacheEngine _engine;
    private readonly IReadOnlyList<string> _dependents;
    private readonly StripedCounter _memoryHits;
    private readonly StripedCounter _negativeMemoryHits;

    private protected Cache(CacheDefinition definition, ulong shape, CacheOptions options, CacheEngine engine)
    {
        (Name, Shape, Options, _engine, _dependents) = (definition.Name, shape, options, engine, definition.Dependents);
        RequiresBackplane = definition.RequiresBackplane;
        Warming = definition.Warming;
        (MaxLoads, LimitsItsEntries) = (definition.MaxLoads, definition.LimitsItsEntries);
        Memory = engine.Memory.StoreOf(this);
        _memoryHits = engine.CacheAside.MemoryCounter(Name, "hit");
        _negativeMemoryHits = engine.CacheAside.MemoryCounter(Name, "negative");
    }

    /// <summary>The name in keys, metrics and configuration.</summary>
    public string Name { get; }

    /// <summary>The lifetimes.</summary>
    public CacheOptions Options { get; }

    /// <summary>The writes that were acknowledged and could not be persisted; <c>null</c> if the cache has no write-behind.</summary>
    public DeadLetters? DeadLetters { get; internal init; }

    /// <summary>
    /// Why changes are written through although write-behind was requested; <c>null</c> if they are written behind, or if the cache has no
    /// write-behind.
    /// </summary>
    public abstract string? WriteBehindDisabledReason { get; }

    /// <summary>Hash of the shape of the cached type. If the hash differs, the JSON of the same value differs, too.</summary>
    public ulong Shape { get; }

    /// <summary>True if writers can invalidate entries before expiry; memory is then used only while the backplane is healthy.</summary>
    internal bool RequiresBackplane { get; }

    internal WarmingPlan? Warming { get; }

    /// <summary>The maximum number of loads that run at a time in this process.</summary>
    internal int MaxLoads { get; }

    /// <summary>Whether the cache has a size limit of its own instead of <see cref="CachingOptions.MaxEntryBytes"/>.</summary>
    internal bool LimitsItsEntries { get; }

    /// <summary>Whether entries have a revision, which orders them.</summary>
    internal abstract bool IsOrdered { get; }

    /// <summary>Keys that were read recently: see <see cref="ConsistencyChecker"/>.</summary>
    internal RecentKeys Recent { get; } = new();

    /// <summary>The keys that are read most.</summary>
    internal HotKeys Hot { get; } = new();

    /// <summary>How many reads memory has served.</summary>
    internal long MemoryHits => _memoryHits.Value + _negativeMemoryHits.Value;

    /// <summary>The part of the memory tier that holds this cache's entries.</summary>
    internal MemoryStore Memory { get; }

    /// <summary>Whether <see cref="LoadEntryAsync"/> can be called without side effects.</summary>
    internal abstract bool HasSource { get; }

    /// <summary>Clears the cache in all processes by one operation. If Redis is away, the clear is queued.</summary>
    public Task ClearAsync(CancellationToken cancel) => _engine.Invalidation.ClearAsync(Name, cause: null, cancel);

    /// <summary>As <see cref="ClearAsync"/>, and also clears the caches that depend on this one.</summary>
    public Task ClearWithDependentsAsync(CancellationToken cancel) =>
        Task.WhenAll(_dependents.Prepend(Name).Select(cache => _engine.Invalidation.ClearAsync(cache, cause: null, cancel)));

    /// <summary>Evicts one entry from both tiers of every process, without a new version: the next read loads it.</summary>
    /// <exception cref="UnavailableException">Redis is away: only this process has evicted it.</exception>
    public Task EvictAsync(string id, CancellationToken cancel) => _engine.Invalidation.EvictAsync(this, id, cancel);

    /// <summary>Removes one entry from the memory of this process alone: the next read asks Redis.</summary>
    public void EvictFromMemory(string id) => Memory.Remove(id);

    /// <summary>Returns each tier's entry of an entity, without its body, and changes nothing.</summary>
    public Task<CacheInspection> InspectAsync(string id, CancellationToken cancel) => _engine.Inspection.LookAsync(this, id, cancel);

    /// <summary>
    /// The keys that this process has read most in the last 30 to 60 seconds, at most <paramref name="count"/> of them and 100. Their rates
    /// are estimates: of the reads that memory serves, one in 128 is counted.
    /// </summary>
    public IReadOnlyList<HotKey> HotKeys(int count) => Hot.Top(count, _engine.CacheAside.Now);

    /// <summary>Whether <paramref name="key"/> names an entity that the cache can be warmed with.</summary>
    public bool IsKey(string key) => Warming?.IsKey(key) ?? false;

    /// <summary>The form of those keys, as the subject of a message. A cache that is declared without <c>WarmWith</c> has none.</summary>
    public string KeyForm => Warming?.Options.KeyForm ?? "No key";

    /// <summary>The keys of the entities that are most worth loading, at most <paramref name="count"/> of them.</summary>
    public Task<IReadOnlyList<string>> TopKeysAsync(int count, CancellationToken cancel) =>
        Warming?.TopAsync(count, cancel) ?? Task.FromResult<IReadOnlyList<string>>([]);

    /// <summary>Applies a committed change of the source that was not made through this cache. It may be applied more than once.</summary>
    public abstract Task ApplyAsync(EntityChange change, CancellationToken cancel);

    /// <summary>Clears the caches that depend on this one, unless the writers of all these changes have done so.</summary>
    public Task ClearDependentsAsync(IReadOnlyCollection<EntityChange> changes, CancellationToken cancel)
    {
        Cause[] causes = [.. changes.Select(change => new Cause(change.Id, change.Revision))];
        return Task.WhenAll(_dependents.Select(cache => _engine.Invalidation.ClearUnlessCausedAsync(cache, causes, cancel)));
    }

    /// <summary>Loads the entity that a key of <see cref="TopKeysAsync"/> names, through the cache.</summary>
    internal abstract Task WarmAsync(string key, CancellationToken cancel);

    /// <summary>
    /// Loads one entity from the source, not through the cache: its revision and checksum are comparable with cached ones.
    /// </summary>
    internal abstract Task<CacheEntry> LoadEntryAsync(string id, CancellationToken cancel);

    /// <summary>Counts an entry that memory has served.</summary>
    internal void CountMemoryHit(bool isNegative) => (isNegative ? _negativeMemoryHits : _memoryHits).Increment();

    /// <summary>As <see cref="MemoryStore.Invalidate"/>; without revisions, every entry that memory holds is older.</summary>
    internal long InvalidateMemory(string id, Revision revision) =>
        Memory.Invalidate(id, IsOrdered && revision != default ? revision : new(long.MaxValue));

    private protected Task ClearDependentsAsync(string id, Revision revision) => ClearDependentsAsync(new Cause(id, revision));

    private protected Task ClearDependentsAsync(Cause? cause) => Task.WhenAll(
        _dependents.Select(cache => _engine.Invalidation.ClearAsync(cache, cause, CancellationToken.None)));
}

/// <summary>
/// One cache: cache-aside reads, and writes by each strategy. It is declared by <see cref="CachingBuilder.AddCache"/> and injected.
/// </summary>
/// <typeparam name="T">The type of the values, which are cached as JSON.</typeparam>
public sealed partial class Cache<T> : Cache where T : class
{
    private readonly CacheDefinition<T> _definition;
    private readonly CacheEngine _engine;
    private readonly WriteBehind? _writeBehind;

    internal Cache(
        CacheDefinition<T> definition, CacheOptions options, ValueFormat<T> format, CacheEngine engine, WriteBehind? writeBehind = null)
        : base(definition, format.Shape, options, engine)
    {
        (_definition, Format, _engine, _writeBehind) = (definition, format, engine, writeBehind);
        Target = definition.Target?.Invoke(this);
        DeadLetters = writeBehind is null ? null : new(writeBehind.Queue, Target!);
    }

    /// <inheritdoc/>
    public override string? WriteBehindDisabledReason => _writeBehind is { IsPossible: true } ? _writeBehind.DisabledReason : null;

    internal WriteBehindTarget<T>? Target { get; }

    internal ValueFormat<T> Format { get; }

    /// <summary>The duration of the last load. It is also the assumed load time of entries that were written, not loaded.</summary>
    internal TimeSpan LastLoadTime { get; set; }

    internal override bool IsOrdered => _definition.Version is not null || _definition.Fence is not null;

    internal override bool HasSource => _definition.Load is not null && RequiresBackplane;

    /// <summary>The value of <paramref name="id"/>. If no fresh one is cached, the cache's loader loads it.</summary>
    /// <exception cref="UnavailableException">
    /// The source, or a server that the load needs, is away, and no usable entry is cached.
    /// </exception>
    public ValueTask<CacheResult<T>> GetAsync(string id, CancellationToken cancel) =>
        Typed(_engine.CacheAside.GetAsync(Key(id), load: null, admit: null, cancel));

    /// <summary>
    /// As <see cref="GetAsync(string, CancellationToken)"/>, but the caller gives the loader. If it returns <c>null</c>: "not found". The
    /// loader must not use what ends with the caller's request: it runs for all callers that wait, and after this caller has its answer if
    /// the entry is refreshed early or the caller cancels.
    /// </summary>
    public ValueTask<CacheResult<T>> GetAsync(string id, Func<CancellationToken, Task<T?>> load, CancellationToken cancel) =>
        Typed(_engine.CacheAside.GetAsync(Key(id), load, admit: null, cancel));

    /// <inheritdoc cref="GetAsync(string, Func{CancellationToken, Task{T}}, CancellationToken)"/>
    /// <param name="admit">
    /// Called before this caller causes or joins a load. The argument says whether a cached entry can be served. If it is <c>false</c>, the
    /// callback can refuse the caller by an exception, which does not count as a failure of the load. If it is <c>true</c> and the callback
    /// returns <c>false</c>, the cached entry is served and nothing is loaded.
    /// </param>
    public ValueTask<CacheResult<T>> GetAsync(
        string id, Func<CancellationToken, Task<T?>> load, Func<bool, Task<bool>>? admit, CancellationToken cancel) =>
        Typed(_engine.CacheAside.GetAsync(Key(id), load, admit, cancel));

    /// <summary>The cached value of <paramref name="id"/>, without a load. If only Redis has the entry, memory keeps it, too.</summary>
    /// <returns><see cref="CacheOutcome.NotCached"/> if nothing usable is cached.</returns>
    public ValueTask<CacheResult<T>> TryGetAsync(string id, CancellationToken cancel) =>
        Typed(_engine.CacheAside.GetAsync(Key(id), new ReadCall<T>(null, null, new(ReadSkips.Load, null)), cancel));

    /// <summary>
    /// The value from the source, not through the cache, with the pending write applied. <c>null</c>: not found.
    /// </summary>
    public Task<T?> LoadAsync(string id, CancellationToken cancel) => LoadAsync(id, stop => LoadRowAsync(id, stop), cancel);

    /// <summary>As <see cref="LoadAsync(string, CancellationToken)"/>, but the caller gives the loader.</summary>
    internal async Task<T?> LoadAsync(string id, Func<CancellationToken, Task<T?>> load, CancellationToken cancel)
    {
        // The pending write is read before the row: see WriteBehind.PendingAsync.
        var pending = _writeBehind is null ? null : await _writeBehind.PendingAsync(id, cancel);
        var row = await load(cancel);
        return row is null || pending is null || !pending.LiesOver(RevisionOf(row)) ? row : Target!.Apply(row, pending);
    }

    /// <summary>The row as the database has it, without the pending write.</summary>
    internal Task<T?> LoadRowAsync(string id, CancellationToken cancel) => _definition.Load is { } load
        ? load(id, cancel)
        : throw new InvalidOperationException($"The cache {Name} has no loader: declare one with LoadWith, or pass one to GetAsync.");

    internal Revision RevisionOf(T value) => new(_definition.Version?.Invoke(value) ?? 0, _definition.Fence?.Invoke(value) ?? 0);

    /// <summary>The earlier of <paramref name="bound"/> and the time that the value itself gives.</summary>
    internal DateTimeOffset FreshUntil(T value, DateTimeOffset now, DateTimeOffset bound) =>
        _definition.FreshUntil?.Invoke(value, now) is { } sooner && sooner < bound ? sooner : bound;

    internal CacheKey<T> Key(string id) => new(this, id);

    /// <summary>The value of an entry.</summary>
    internal T ValueOf(CacheEntry entry)
    {
        if (!_definition.IsImmutable)
        {
            return Format.Read(entry.Body);
        }

        if (entry.Parsed is T shared)
        {
            return shared;
        }

        var value = Format.Read(entry.Body);
        entry.Parsed = value;
        return value;
    }

    internal override async Task WarmAsync(string key, CancellationToken cancel)
    {
        if (Warming?.Options.Load is { } load)
        {
            await load(Warming.Services, key, cancel);
        }
        else
        {
            await GetAsync(key, cancel);
        }
    }

    internal override async Task<CacheEntry> LoadEntryAsync(string id, CancellationToken cancel)
    {
        var (key, value) = (new EntryKey(id, Shape), await LoadAsync(id, cancel));
        return value is null
            ? CacheEntry.Negative(key, Options, default, TimeSpan.Zero, DateTimeOffset.UnixEpoch)
            : CacheEntry.Of(key, this, value, TimeSpan.Zero, DateTimeOffset.UnixEpoch);
    }

    private ValueTask<CacheResult<T>> Typed(ValueTask<CacheResult> read)
    {
        return read.IsCompletedSuccessfully ? new(new CacheResult<T>(this, read.Result)) : AwaitAsync(read);

        async ValueTask<CacheResult<T>> AwaitAsync(ValueTask<CacheResult> pending) => new(this, await pending);
    }
}

/// <summary>One entity in a cache.</summary>
internal readonly record struct CacheKey<T>(Cache<T> Cache, string Id) where T : class;
