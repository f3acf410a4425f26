using System.Globalization;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// The promises of docs/guarantees.md, checked while a run goes on: what has happened so far determines the oldest version that a read
/// that begins now may return.
/// </summary>
internal sealed class Promises(World world)
{
    public const string ReadYourWrites = "Read your writes";
    public const string OthersFollow = "Other processes follow";
    public const string Monotonic = "Monotonic reads";
    public const string OneLoad = "One load";
    public const string NothingStaysStale = "Nothing stays stale";
    public const string NoWriteIsLost = "No acknowledged write is lost";
    public const string OnceInOrder = "Each write takes effect once, in the order of acceptance";
    public const string Ends = "Every call ends";
    public const string AsWritten = "A read returns a value of its entity as it was written";

    /// <summary>The version of an entity that was deleted; no other is later.</summary>
    public const long Deleted = long.MaxValue;

    /// <summary>The key of the page that contains the item <see cref="OnPage"/>.</summary>
    public const string Page = "page";

    /// <summary>The key of the item that the page contains.</summary>
    public const string OnPage = "k";

    /// <summary>How many steps it may take until the calls of a run have ended.</summary>
    public const int MaxSteps = 20_000;

    private const long BoundMicros = 1_000_000;
    private const double MaxSeconds = 60;

    private readonly Dictionary<(Node Node, string Key), long> _read = [];
    private readonly Dictionary<(Node Node, string Key), long> _written = [];
    private readonly Dictionary<string, (long Version, string? Name)> _acknowledged = [];
    private readonly Dictionary<string, List<(long Version, string Name)>> _writes = [];
    private readonly Dictionary<string, List<long>> _versions = [];

    /// <summary>The versions that Redis has announced, and the version up to which a clear or an eviction has announced all.</summary>
    private readonly HashSet<(string Key, long Version)> _announced = [];
    private readonly Dictionary<string, long> _cleared = [];
    private readonly Dictionary<string, List<(long Version, long Since)>> _visible = [];
    private readonly Dictionary<string, List<string>> _names = [];
    private readonly Dictionary<string, long> _committed = [];

    /// <summary>The version of the last write that took effect: a later one only says that a write was given up.</summary>
    private readonly Dictionary<string, long> _taken = [];

    /// <summary>The entity that each name was written to.</summary>
    private readonly Dictionary<string, string> _entities = [];

    /// <summary>The name that each version of an entity was committed with.</summary>
    private readonly Dictionary<(string Key, long Version), string> _contents = [];

    /// <summary>The version that messages give a deletion.</summary>
    private readonly Dictionary<string, long> _deletions = [];

    /// <summary>
    /// Whether clients may read writes that are not committed yet. A version may then have two values, because the row of a write that was
    /// given up gets the version that another write may have.
    /// </summary>
    public bool HasDeferredWrites { get; init; }

    /// <summary>Several processes have read a key that was in no cache, and loaded it so often.</summary>
    public static void ColdKey(int loads)
    {
        if (loads != 1)
        {
            throw new BrokenPromiseException(OneLoad, $"{loads} loads of a cold key");
        }
    }

    /// <summary>Lets events happen until a condition holds, which must not take forever.</summary>
    public void Finish(Func<bool> isOver, string what)
    {
        if (!world.RunUntil(isOver, MaxSteps, MaxSeconds))
        {
            throw new BrokenPromiseException(Ends, $"{what} did not end");
        }
    }

    /// <summary>The row of an entity has changed; <c>null</c>: it was deleted.</summary>
    public void Committed(string key, Item? row)
    {
        if (key == OnPage)
        {
            Committed(Page, row);
        }

        var (names, before) = (_names.TryGetValue(key, out var held) ? held : _names[key] = [], VersionOf(key));
        var version = row?.Version ?? Deleted;
        if (version <= before)
        {
            throw new BrokenPromiseException(OnceInOrder, $"the row of {key} gets version {version} after version {before}");
        }

        _committed[key] = version;
        if (row is not null)
        {
            _contents[(key, version)] = row.Name;
        }

        if (row is null)
        {
            _deletions[key] = before + 1;
        }

        if (row is not null && (names.Count == 0 || names[^1] != row.Name))
        {
            if (names.Contains(row.Name))
            {
                throw new BrokenPromiseException(OnceInOrder, $"the row of {key} gets \"{row.Name}\" again after \"{names[^1]}\"");
            }

            names.Add(row.Name);
            _taken[key] = version;
        }
    }

    /// <summary>A client begins to give an entity a name.</summary>
    public void Writes(string key, string name) => _entities[name] = key;

    /// <summary>The version that the database has; 0 if it has never had the entity.</summary>
    public long VersionOf(string key) => _committed.GetValueOrDefault(key);

    /// <summary>A read begins; the result is what it may return.</summary>
    public Floor Begin(Node node, string key)
    {
        var others = _visible.GetValueOrDefault(key)?.Where(each => each.Since + BoundMicros <= world.Micros);
        return new(
            _written.GetValueOrDefault((node, key)),
            _read.GetValueOrDefault((node, key)),
            others?.Select(each => each.Version).DefaultIfEmpty().Max() ?? 0);
    }

    /// <summary>A read ends.</summary>
    public void End(Node node, string key, Floor floor, Item? served)
    {
        // "Not found" is the state before the creation, and after the deletion.
        var version = served?.Version ?? (VersionOf(key) == Deleted ? Deleted : 0);
        Check(ReadYourWrites, floor.Written, "it has written");
        Check(Monotonic, floor.Read, "an earlier read returned");
        Check(OthersFollow, floor.Others, "for more than a second, Redis has known");
        CheckContent(node, key, served);
        _read[(node, key)] = Math.Max(version, _read.GetValueOrDefault((node, key)));

        void Check(string promise, long oldest, string why)
        {
            if (version < oldest)
            {
                throw new BrokenPromiseException(
                    promise, $"a read in {node.Name} returns {Text(version)} of {key}, although {why} {Text(oldest)}");
            }
        }
    }

    /// <summary>A client has evicted an entry, or cleared its cache: whatever the database had when it called must be served now.</summary>
    public void Evicted(Node node, string key, long version)
    {
        if (version > 0)
        {
            Acknowledged(node, key, version, name: null);
        }
    }

    /// <summary>A write is acknowledged to a caller in a process.</summary>
    /// <param name="name">The name that it has given the item; <c>null</c> for a deletion.</param>
    public void Acknowledged(Node node, string key, long version, string? name)
    {
        _written[(node, key)] = Math.Max(version, _written.GetValueOrDefault((node, key)));
        (_versions.TryGetValue(key, out var versions) ? versions : _versions[key] = []).Add(version);
        if (name is not null)
        {
            (_writes.TryGetValue(key, out var writes) ? writes : _writes[key] = []).Add((version, name));
        }

        if (version > _acknowledged.GetValueOrDefault(key).Version)
        {
            _acknowledged[key] = (version, name);
        }

        See(key);
    }

    /// <summary>The cache's Redis publishes a message.</summary>
    /// <param name="isCurrent">
    /// Whether the change is in the current generation. A writer that has missed a clear learns about it and repeats its put; until then,
    /// Redis does not know the write.
    /// </param>
    public void Published(string message, bool isCurrent)
    {
        switch (message.Split(' ', 5))
        {
            case [_, "0", "items", var number, var key] when isCurrent:
                var version = long.Parse(number.Split('.')[0], CultureInfo.InvariantCulture);
                var isDeletion = _deletions.TryGetValue(key, out var deletion) && version >= deletion;
                if (version == long.MaxValue && !isDeletion)
                {
                    Clear(key);
                }
                else
                {
                    _announced.Add((key, isDeletion ? Deleted : version));
                    See(key);
                }

                break;
            case [_, "1", "items", ..]:
                foreach (var committed in _committed.Keys.Where(committed => committed != Page).ToArray())
                {
                    Clear(committed);
                }

                break;
            case [_, "1", "pages", ..]:
                Clear(Page);
                break;
        }
    }

    /// <summary>Redis has failed or lost data: the second in which others follow begins again.</summary>
    public void RedisFailed()
    {
        foreach (var visible in _visible.Values)
        {
            for (var at = 0; at < visible.Count; at++)
            {
                visible[at] = visible[at] with { Since = Math.Max(visible[at].Since, world.Micros) };
            }
        }
    }

    /// <summary>All faults have ended long ago, and a read returns this.</summary>
    public void AtLast(Node node, string key, Item? served)
    {
        var version = served?.Version ?? (VersionOf(key) == Deleted ? Deleted : 0);
        if (version != VersionOf(key))
        {
            throw new BrokenPromiseException(
                NothingStaysStale, $"a read in {node.Name} returns {Text(version)} of {key}, the database has {Text(VersionOf(key))}");
        }

        CheckContent(node, key, served);
    }

    /// <summary>All queues are empty, and the database has this row.</summary>
    /// <param name="deadLetters">The names that the database has refused.</param>
    public void AtLast(string key, Item? row, IReadOnlyCollection<string> deadLetters)
    {
        var (names, last) = (_names.GetValueOrDefault(key) ?? [], row?.Version ?? (VersionOf(key) == Deleted ? Deleted : 0));
        foreach (var (version, name) in _writes.GetValueOrDefault(key) ?? [])
        {
            // A later write may have taken effect in its place, or the entity was deleted.
            var took = names.Contains(name) || last == Deleted || _taken.GetValueOrDefault(key) > version;
            if (!took && !deadLetters.Contains(name))
            {
                throw new BrokenPromiseException(
                    NoWriteIsLost,
                    $"\"{name}\", {Text(version)} of {key}, was acknowledged, and the row has \"{row?.Name}\", {Text(last)}");
            }
        }

        if (last < _acknowledged.GetValueOrDefault(key).Version)
        {
            throw new BrokenPromiseException(
                NoWriteIsLost, $"{Text(_acknowledged[key].Version)} of {key} was acknowledged, and the row has {Text(last)}");
        }

        if (deadLetters.FirstOrDefault(names.Contains) is { } both)
        {
            throw new BrokenPromiseException(OnceInOrder, $"\"{both}\" was in the row of {key} and is a dead letter");
        }

        if (deadLetters.Count != deadLetters.Distinct().Count())
        {
            throw new BrokenPromiseException(OnceInOrder, $"two dead letters of {key} are one write: {string.Join(", ", deadLetters)}");
        }
    }

    private void CheckContent(Node node, string key, Item? served)
    {
        if (served is null)
        {
            return;
        }

        var entity = key == Page ? OnPage : key;
        var isOfEntity = _entities.GetValueOrDefault(served.Name) == entity;
        if (!isOfEntity || (!HasDeferredWrites && _contents.GetValueOrDefault((key, served.Version)) != served.Name))
        {
            throw new BrokenPromiseException(
                AsWritten, $"a read in {node.Name} returns \"{served.Name}\" as {Text(served.Version)} of {key}");
        }
    }

    private void Clear(string key)
    {
        _cleared[key] = Math.Max(VersionOf(key), _cleared.GetValueOrDefault(key));
        See(key);
    }

    /// <summary>Others must see a write a second after it was acknowledged and Redis had its invalidation.</summary>
    /// <remarks>
    /// It does not suffice that one write was acknowledged and Redis had the invalidation of another one: the process of the one may not
    /// reach Redis, while that of the other waits for the reply of Redis, and serves the version before from memory.
    /// </remarks>
    private void See(string key)
    {
        var cleared = _cleared.GetValueOrDefault(key);
        var version = _versions.GetValueOrDefault(key)?
            .Where(each => each <= cleared || _announced.Contains((key, each))).DefaultIfEmpty().Max() ?? 0;
        var visible = _visible.TryGetValue(key, out var held) ? held : _visible[key] = [];
        if (version > (visible.Count == 0 ? 0 : visible[^1].Version))
        {
            visible.Add((version, world.Micros));
        }
    }

    private static string Text(long version) => version switch
    {
        0 => "\"not found\"",
        Deleted => "\"deleted\"",
        _ => string.Create(CultureInfo.InvariantCulture, $"version {version}"),
    };

    /// <summary>The oldest versions that a read may return.</summary>
    internal readonly record struct Floor(long Written, long Read, long Others);
}
