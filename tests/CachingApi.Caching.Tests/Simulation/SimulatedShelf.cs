using CachingApi.Caching.Operations;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>The database fails a statement.</summary>
internal sealed class SimulatedOutageException() : IOException("The database does not answer.");

/// <summary>The database of a simulation: a <see cref="Shelf"/> whose statements begin and end when the scheduler lets them.</summary>
internal sealed class SimulatedShelf(World world, Shelf rows, Promises promises) : IWriteBehind<Item, Rename>
{
    private static readonly TimeSpan[] Delays = [.. new[] { 0, 0, 400, 1100, 2500 }.Select(each => TimeSpan.FromMilliseconds(each))];

    private readonly List<EntityChange> _changes = [];

    /// <summary>How many loads have begun.</summary>
    public int Loads { get; private set; }

    /// <summary>Whether loads may fail.</summary>
    public bool Fails { get; set; }

    /// <summary>Whether the answers to many loads take long.</summary>
    public bool IsSlow { get; set; }

    /// <summary>Whether the database refuses a queued write that gives an item this name.</summary>
    public void Refuse(string name, bool refuses)
    {
        if (refuses)
        {
            rows.Refused.Add(name);
        }
    }

    /// <summary>All changes of rows, in the order of their commits, as a replication slot sends them.</summary>
    public IReadOnlyList<EntityChange> Changes => _changes;

    /// <summary>The row as it is now.</summary>
    public Item? this[string id] => rows.FindAsync(id).GetAwaiter().GetResult();

    public async Task<Item?> FindAsync(string id, CancellationToken cancel)
    {
        Loads++;
        var fails = Fails && world.Choices.OneIn(6);
        return await StatementAsync(
            $"the load of {id}",
            () => fails ? throw new SimulatedOutageException() : this[id],
            Text,
            IsSlow ? Delays[world.Choices.Next(Delays.Length)] : default);
    }

    public Item Apply(Item current, Rename change, Revision revision) => rows.Apply(current, change, revision);

    public Task<WriteResult<Item>> CommitAsync(
        string id, Rename change, IReadOnlyCollection<long>? versions, WriteFence fence, CancellationToken cancel) =>
        StatementAsync(
            $"the commit of \"{change.Name}\" to {id}",
            () =>
            {
                var result = rows.CommitAsync(id, change, versions, fence, cancel).GetAwaiter().GetResult();
                if (result.Outcome is WriteOutcome.Committed)
                {
                    Committed(id, result.Value);
                }

                return result;
            },
            result => result.Outcome is WriteOutcome.Committed ? Text(result.Value) : $"{result.Outcome}");

    /// <summary>Inserts a row, unless there is one.</summary>
    public Task<Item?> CreateAsync(string id, string name) => StatementAsync(
        $"the insert of \"{name}\" as {id}",
        () =>
        {
            if (promises.VersionOf(id) > 0)
            {
                return null;
            }

            var row = rows[id] = new(name, 1);
            Committed(id, row);
            return row;
        },
        Text);

    public Task<WriteResult<Item>> DeleteAsync(string id) => StatementAsync(
        $"the deletion of {id}",
        () =>
        {
            var result = rows.DeleteAsync(id).GetAwaiter().GetResult();
            if (result.Value is { } deleted)
            {
                _changes.Add(new(id, new(deleted.Version + 1, deleted.Fence), IsDeletion: true));
                promises.Committed(id, null);
            }

            return result;
        },
        result => $"{result.Outcome}");

    public Task<IReadOnlyCollection<PersistedRow>> PersistAsync(
        IReadOnlyList<DeferredWrite<Rename>> writes, CancellationToken cancel) => StatementAsync(
            $"the statement that persists {string.Join(", ", writes.Select(write => $"\"{write.Change.Name}\" to {write.Id}"))}",
            () =>
            {
                var persisted = rows.PersistAsync(writes, cancel).GetAwaiter().GetResult();
                foreach (var row in persisted.Where(row => row.Written))
                {
                    Committed(row.Id, this[row.Id]);
                }

                return persisted;
            },
            persisted => string.Join(", ", persisted.Select(row => $"{row.Id} {(row.Written ? "written" : "not written")}")));

    public Task<Revision?> BumpVersionAsync(string id, Revision write, CancellationToken cancel) => StatementAsync(
        $"the statement that gives {id} a later version",
        () =>
        {
            var (before, revision) = (this[id], rows.BumpVersionAsync(id, write, cancel).GetAwaiter().GetResult());
            if (this[id] is { } row && row.Version != before?.Version)
            {
                Committed(id, row);
            }

            return revision;
        },
        revision => $"{revision}");

    /// <summary>
    /// A statement: it reaches the database, which executes it at once, and its answer reaches the process. The database executes it also
    /// if the process has crashed meanwhile.
    /// </summary>
    private async Task<T> StatementAsync<T>(string what, Func<T> statement, Func<T, string> text, TimeSpan delay = default)
    {
        var (node, answered) = (Node.Current, new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously));
        world.Open(
            null,
            $"statements of {node.Name}",
            () => $"the database executes {what}, of {node.Name}",
            () => Answer(node, what, answered, statement, text, delay),
            world.Choices.Hold());
        return await answered.Task;
    }

    private void Answer<T>(
        Node node, string what, TaskCompletionSource<T> answered, Func<T> statement, Func<T, string> text, TimeSpan delay)
    {
        var (value, failure) = (default(T)!, default(Exception));
        try
        {
            value = statement();
        }
        catch (Exception error) when (error is SimulatedOutageException or FormatException)
        {
            failure = error;
        }

        world.Open(
            node,
            $"answers to {node.Name}",
            () => $"gets the answer to {what}: {failure?.Message ?? text(value)}",
            () => _ = failure is null ? answered.TrySetResult(value) : answered.TrySetException(failure),
            delay + world.Choices.Hold());
    }

    private void Committed(string id, Item? row)
    {
        _changes.Add(new(id, new(row!.Version, row.Fence)));
        promises.Committed(id, row);
    }

    private static string Text(Item? item) => item is null ? "no row" : $"\"{item.Name}\", version {item.Version}";
}
