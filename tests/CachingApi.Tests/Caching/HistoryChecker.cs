namespace CachingApi.Tests.Caching;

/// <summary>
/// Checks the promises of the cache against each operation of a history when it ends; its memory does not grow with the history.
/// </summary>
/// <remarks>
/// A read must show, for each user, at least the newest version of: the writes acknowledged on its own node before it began; the
/// reads that had ended on its own node; the writes acknowledged on any node a lag before it began. A version must have one
/// content, and a writer of this user must have written that content.
/// If the state server loses a write-behind before it is persisted, reads after the loss need not show it. No other write is exempt.
/// Times are those of a <see cref="HistoryClock"/>.
/// </remarks>
internal sealed class HistoryChecker(TimeSpan lag)
{
    /// <summary>The content of a user that is not found.</summary>
    public const string Gone = "(gone)";

    /// <summary>The version of <see cref="Gone"/>: a deleted user does not come back.</summary>
    public const long GoneVersion = long.MaxValue;

    /// <summary>A page that only writes bind, not earlier reads of it, because the user that it begins after may be deleted.</summary>
    public const string AnyList = "any list";

    private const int KeptWrites = 2_000;
    private const int KeptViolations = 100;

    private readonly Lock _lock = new();
    private readonly Dictionary<Guid, History> _users = [];
    private readonly List<string> _violations = [];
    private readonly List<(Guid User, long Version, string Content, string Why)> _suspects = [];
    private int _losses;
    private int _nodes;
    private TimeSpan? _lossOver;

    /// <summary>Called for each violation at once.</summary>
    public Action<string>? Report { get; init; }

    /// <summary>The number of violations; <see cref="Violations"/> has the first ones.</summary>
    public int Count { get; private set; }

    public IReadOnlyList<string> Violations => _violations;

    /// <summary>Reads that are right only if the row once had this version with this content.</summary>
    public IReadOnlyList<(Guid User, long Version, string Content, string Why)> Suspects => _suspects;

    /// <summary>The longest time for which a node served a version after another node had acknowledged a later one.</summary>
    public TimeSpan Staleness { get; private set; }

    /// <summary>Adds a node, or a node's next process, which has served no reads yet.</summary>
    public int AddNode() => Interlocked.Increment(ref _nodes);

    public void Violated(string what)
    {
        lock (_lock)
        {
            Count++;
            if (_violations.Count < KeptViolations)
            {
                _violations.Add(what);
                Report?.Invoke(what);
            }
        }
    }

    /// <summary>A write begins: from now on, reads may show its content.</summary>
    /// <param name="content">Different for each write; <see cref="Gone"/> for a deletion.</param>
    /// <param name="behind">Whether it is acknowledged before it is committed.</param>
    public HistoryWrite BeginWrite(Guid user, string content, bool behind = false)
    {
        lock (_lock)
        {
            var history = Of(user);
            var write = new HistoryWrite(user, content, behind, _losses);
            history.Writes[content] = write;
            history.Order.Enqueue(content);
            if (history.Order.Count > KeptWrites)
            {
                history.Writes.Remove(history.Order.Dequeue());
            }

            return write;
        }
    }

    /// <summary>A write was acknowledged on a node.</summary>
    /// <param name="queued">Whether it is acknowledged and not committed: a write-behind that was taken.</param>
    public void Acknowledge(HistoryWrite write, int node, long version, bool queued, TimeSpan at)
    {
        lock (_lock)
        {
            var history = Of(write.User);
            write.Version = version;
            write.Queued = queued;
            if (queued && write.Losses < _losses)
            {
                write.Lost = true; // it may have been accepted before the loss
                return;
            }

            var point = new Point(version, write, $"acknowledged by node {node} at {at:mm\\:ss\\.fff}{(queued ? ", queued" : "")}");
            Register(history, point, $"acknowledged by node {node}");
            Raise(history, node, Single, point);
            if (!queued)
            {
                Raise(history, node, AnyList, point);
            }

            history.Recent.Enqueue((at, point));
        }
    }

    /// <summary>A read of one user begins.</summary>
    public HistoryRead BeginRead(int node, Guid user, TimeSpan at)
    {
        lock (_lock)
        {
            return new(
                node, Single, at, _users.TryGetValue(user, out var history) ? new() { [user] = Floor(history, node, Single, at) } : []);
        }
    }

    /// <summary>A read of a list of users begins.</summary>
    /// <param name="page">
    /// Names a page that does not go backward. Two pages are two entries, so until a write is acknowledged, one of them may show it and the
    /// other may not.
    /// </param>
    public HistoryRead BeginList(int node, string page, TimeSpan at)
    {
        lock (_lock)
        {
            return new(node, page, at, _users.ToDictionary(known => known.Key, known => Floor(known.Value, node, page, at)));
        }
    }

    /// <summary>A read has ended.</summary>
    /// <param name="shown">Version and content of each user in the answer.</param>
    /// <param name="whole">Whether a user that is not in the answer does not exist: <c>false</c> for one of several pages.</param>
    public void EndRead(HistoryRead read, IReadOnlyDictionary<Guid, (long Version, string Content)> shown, bool whole)
    {
        lock (_lock)
        {
            foreach (var (user, floor) in read.Floors)
            {
                if (shown.TryGetValue(user, out var seen))
                {
                    Judge(read, user, floor, seen.Version, seen.Content);
                }
                else if (whole && floor is not null)
                {
                    Judge(read, user, floor, GoneVersion, Gone);
                }
            }
        }
    }

    /// <summary>
    /// The state server was killed, has lost its data and is not started again yet: writes that are not in the rows may be lost.
    /// </summary>
    public void Lose(IReadOnlyDictionary<Guid, (long Version, string Content)> rows)
    {
        lock (_lock)
        {
            _losses++;
            _lossOver = null;
            foreach (var (user, history) in _users)
            {
                rows.TryGetValue(user, out var row);
                foreach (var write in history.Writes.Values.Where(
                    write => write.Behind && (write.Version == 0 || write.Version > row.Version)))
                {
                    write.Lost = write.Queued || write.Version == 0;
                }

                history.Row = row.Content is { } content && history.Writes.TryGetValue(content, out var last)
                    ? new(row.Version, last, "in the row at the loss")
                    : null;
                foreach (var place in history.Floors.Where(floor => floor.Value.Write.Lost).Select(floor => floor.Key).ToArray())
                {
                    history.Floors.Remove(place);
                    if (history.Row is { } floor)
                    {
                        history.Floors[place] = floor;
                    }
                }
            }
        }
    }

    /// <summary>The state server answers again: a lag later, no read may show a lost write.</summary>
    public void LossIsOver(TimeSpan at)
    {
        lock (_lock)
        {
            _lossOver = at;
        }
    }

    /// <summary>The newest acknowledged version of each user. In the end, the row must have it or a later one.</summary>
    public IReadOnlyDictionary<Guid, (long Version, string Content)> Acknowledged()
    {
        lock (_lock)
        {
            foreach (var history in _users.Values)
            {
                Settle(history, TimeSpan.MaxValue);
            }

            return _users
                .Where(user => user.Value.Floors.ContainsKey((Everywhere, Single)))
                .Select(user => (user.Key, Point: user.Value.Floors[(Everywhere, Single)]))
                .ToDictionary(user => user.Key, user => (user.Point.Version, user.Point.Write.Content));
        }
    }

    /// <summary>Removes the records of a user that was deleted a while ago.</summary>
    public void Forget(Guid user)
    {
        lock (_lock)
        {
            _users.Remove(user);
        }
    }

    private const int Everywhere = 0;
    private const string Single = "";

    private void Judge(HistoryRead read, Guid user, Point? floor, long version, string content)
    {
        if (!_users.TryGetValue(user, out var history))
        {
            return; // removed meanwhile
        }

        var where = $"{(read.Place == Single ? "a read" : "a list")} on node {read.Node} of user {user} "
            + $"that began at {read.At:mm\\:ss\\.fff} showed version {version}, {content} [{read.How}]";
        if (!history.Writes.TryGetValue(content, out var write))
        {
            Violated(content == Gone ? $"{where}, but no operation deleted it" : $"{where}, but no operation wrote that");
            return;
        }

        if (floor is { Write.Lost: true })
        {
            floor = history.Row;
        }

        if (read.Place != Single)
        {
            write.Lost = false; // lists show rows: it was persisted
        }

        var point = new Point(version, write, $"shown by {where.Split(" of user")[0]} that began at {read.At:mm\\:ss\\.fff} [{read.How}]");
        Register(history, point, where);
        if (write.Lost)
        {
            if (floor is not null && version <= floor.Version && floor.Write != write)
            {
                Violated($"{where}, which was lost; {floor} was there before it began");
            }
            else if (floor?.Write.Losses > write.Losses || _lossOver + lag < read.At)
            {
                Suspect(user, point, where);
            }

            return;
        }

        if (floor is not null && version < floor.Version)
        {
            Violated($"{where}; {floor} was there before it began");
        }

        if (read.Place == Single)
        {
            foreach (var (at, recent) in history.Recent)
            {
                if (at < read.At && !recent.Write.Lost && version < recent.Version && read.At - at > Staleness)
                {
                    Staleness = read.At - at;
                }
            }
        }

        if (read.Place != AnyList)
        {
            Raise(history, read.Node, read.Place, point);
        }
    }

    private void Suspect(Guid user, Point point, string where)
    {
        if (_suspects.Count < KeptViolations)
        {
            _suspects.Add((user, point.Version, point.Write.Content, $"{where}, which was lost"));
        }
    }

    private void Register(History history, Point point, string where)
    {
        if (point.Version == GoneVersion)
        {
            return;
        }

        if (history.Versions.TryGetValue(point.Version, out var before) && before != point.Write && !before.Lost && !point.Write.Lost)
        {
            Violated($"{where}: version {point.Version} of user {point.Write.User} is {before.Content} and {point.Write.Content}");
            return;
        }

        if (before?.Lost != false)
        {
            history.Versions[point.Version] = point.Write;
            if (history.Versions.Count > KeptWrites)
            {
                history.Versions.Remove(history.Versions.Keys.First());
            }
        }
    }

    /// <summary>The oldest version that a read that begins now may show.</summary>
    private Point? Floor(History history, int node, string place, TimeSpan now)
    {
        Settle(history, now);
        history.Floors.TryGetValue((node, place), out var shown);
        history.Floors.TryGetValue((node, place == Single ? Single : AnyList), out var own);
        history.Floors.TryGetValue((Everywhere, place == Single ? Single : AnyList), out var all);
        return new[] { shown, own, all }.MaxBy(floor => floor?.Version ?? 0);
    }

    /// <summary>Writes that were acknowledged a lag ago bind every node.</summary>
    private void Settle(History history, TimeSpan now)
    {
        while (history.Recent.TryPeek(out var oldest) && (now == TimeSpan.MaxValue || oldest.At + lag < now))
        {
            history.Recent.Dequeue();
            if (oldest.Point.Write.Lost)
            {
                continue;
            }

            Raise(history, Everywhere, Single, oldest.Point);
            if (!oldest.Point.Write.Queued)
            {
                Raise(history, Everywhere, AnyList, oldest.Point);
            }
        }
    }

    private static void Raise(History history, int node, string place, Point point)
    {
        if (!history.Floors.TryGetValue((node, place), out var floor) || floor.Version < point.Version)
        {
            history.Floors[(node, place)] = point;
        }
    }

    private History Of(Guid user)
    {
        if (!_users.TryGetValue(user, out var history))
        {
            _users[user] = history = new();
        }

        return history;
    }

    /// <summary>The records of a user.</summary>
    private sealed class History
    {
        /// <summary>The last writes, by content.</summary>
        public Dictionary<string, HistoryWrite> Writes { get; } = [];

        public Queue<string> Order { get; } = [];

        /// <summary>The writes of the last versions.</summary>
        public SortedDictionary<long, HistoryWrite> Versions { get; } = [];

        /// <summary>The oldest version that a node may show: in single reads, in any list, and on a page.</summary>
        public Dictionary<(int Node, string Place), Point> Floors { get; } = [];

        /// <summary>Writes that were acknowledged less than a lag ago.</summary>
        public Queue<(TimeSpan At, Point Point)> Recent { get; } = [];

        /// <summary>The row when the state server last lost its data.</summary>
        public Point? Row { get; set; }
    }
}

/// <summary>A version that a read or a write returned, and the write that it came from.</summary>
/// <param name="From">The read or write that returned it.</param>
internal sealed record Point(long Version, HistoryWrite Write, string From)
{
    public override string ToString() => $"version {Version}, {Write.Content}, {From},";
}

internal sealed class HistoryWrite(Guid user, string content, bool behind, int losses)
{
    public Guid User => user;

    public string Content => content;

    public bool Behind => behind;

    /// <summary>How often the state server had lost its data when the write began.</summary>
    public int Losses => losses;

    /// <summary>0 until it is acknowledged.</summary>
    public long Version { get; set; }

    /// <summary>Whether it was acknowledged before its commit.</summary>
    public bool Queued { get; set; }

    /// <summary>Whether the state server may have lost it.</summary>
    public bool Lost { get; set; }
}

/// <param name="Floors">The oldest version of each user that it may show.</param>
internal sealed record HistoryRead(int Node, string Place, TimeSpan At, Dictionary<Guid, Point?> Floors)
{
    /// <summary>The Cache-Status of its answer.</summary>
    public string How { get; init; } = "";
}
