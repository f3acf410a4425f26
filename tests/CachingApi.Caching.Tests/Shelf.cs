using System.Text.Json.Serialization;

namespace CachingApi.Caching.Tests;

/// <summary>An item on a shelf.</summary>
internal sealed record Item(string Name, long Version)
{
    [JsonIgnore]
    public long Fence { get; init; }
}

/// <summary>A change of an item.</summary>
internal sealed record Rename(string Name);

[JsonSerializable(typeof(Item))]
[JsonSerializable(typeof(Rename))]
internal sealed partial class ItemJson : JsonSerializerContext;

/// <summary>A test's own database, in this process. It handles fences as the SQL would.</summary>
internal sealed class Shelf : IWriteBehind<Item, Rename>
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, Item> _rows = [];

    public int Loads { get; private set; }

    /// <summary>Runs before each load.</summary>
    public Func<Task> BeforeLoad { get; set; } = () => Task.CompletedTask;

    /// <summary>Names that the database refuses.</summary>
    public HashSet<string> Refused { get; } = [];

    public Item this[string id]
    {
        get
        {
            lock (_lock)
            {
                return _rows[id];
            }
        }

        set
        {
            lock (_lock)
            {
                _rows[id] = value;
            }
        }
    }

    public async Task<Item?> FindAsync(string id)
    {
        await BeforeLoad();
        lock (_lock)
        {
            Loads++;
            return _rows.GetValueOrDefault(id);
        }
    }

    public Item Apply(Item current, Rename change, Revision revision) =>
        current with { Name = change.Name, Version = revision.Version, Fence = revision.Fence };

    public Task<WriteResult<Item>> CommitAsync(
        string id, Rename change, IReadOnlyCollection<long>? versions, WriteFence fence, CancellationToken cancel)
    {
        lock (_lock)
        {
            WriteResult<Item> result = !_rows.TryGetValue(id, out var row) ? WriteOutcome.NotFound
                : fence.Token > 0 && row.Fence >= fence.Token && row.Fence <= fence.MaxFence
                    ? new(WriteOutcome.Superseded, Fence: row.Fence)
                : versions?.Contains(row.Version) == false ? WriteOutcome.VersionMismatch
                : _rows[id] = new(change.Name, Math.Max(row.Version + 1, fence.Version)) { Fence = fence.Token };
            return Task.FromResult(result);
        }
    }

    public Task<WriteResult<Item>> DeleteAsync(string id)
    {
        lock (_lock)
        {
            return Task.FromResult<WriteResult<Item>>(_rows.Remove(id, out var row) ? row : WriteOutcome.NotFound);
        }
    }

    public Task<IReadOnlyCollection<PersistedRow>> PersistAsync(IReadOnlyList<DeferredWrite<Rename>> writes, CancellationToken cancel)
    {
        lock (_lock)
        {
            if (writes.Any(write =>
                Refused.Contains(write.Change.Name) && _rows.TryGetValue(write.Id, out var row) && write.MayOverwrite(row.Fence)))
            {
                throw new FormatException("The database refuses it.");
            }

            return Task.FromResult<IReadOnlyCollection<PersistedRow>>(
                [.. writes.Where(write => _rows.ContainsKey(write.Id)).Select(Persist)]);
        }
    }

    public Task<Revision?> BumpVersionAsync(string id, Revision write, CancellationToken cancel)
    {
        lock (_lock)
        {
            if (!_rows.TryGetValue(id, out var row))
            {
                return Task.FromResult<Revision?>(null);
            }

            var fence = row.Fence > WriteFence.MaxFenceAfter(write.Fence) ? row.Fence : Math.Max(row.Fence, write.Fence);
            _rows[id] = row = row with { Version = Math.Max(row.Version, write.Version + 1), Fence = fence };
            return Task.FromResult<Revision?>(new(row.Version, row.Fence));
        }
    }

    private PersistedRow Persist(DeferredWrite<Rename> write)
    {
        var row = _rows[write.Id];
        if (!write.MayOverwrite(row.Fence))
        {
            return new(write.Id, Written: false, row.Version, row.Fence);
        }

        _rows[write.Id] = row = new(write.Change.Name, Math.Max(row.Version + 1, write.Version)) { Fence = write.Token };
        return new(write.Id, Written: true, row.Version, row.Fence);
    }
}
