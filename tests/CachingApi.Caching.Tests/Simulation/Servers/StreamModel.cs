using System.Globalization;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>A stream of <see cref="RedisModel"/> with its consumer groups.</summary>
internal sealed class StreamModel
{
    private readonly SortedDictionary<StreamId, object?[]> _entries = [];
    private readonly Dictionary<string, Group> _groups = [];
    private StreamId _last;

    public long Length => _entries.Count;

    public StreamModel Copy()
    {
        var copy = new StreamModel { _last = _last };
        foreach (var (id, fields) in _entries)
        {
            copy._entries[id] = fields;
        }

        foreach (var (name, group) in _groups)
        {
            copy._groups[name] = group.Copy();
        }

        return copy;
    }

    /// <remarks>With <c>MAXLEN ~</c>, Redis removes only whole blocks of a hundred entries, so short streams stay as they are.</remarks>
    public byte[] Add(byte[][] command, string[] arguments, long now)
    {
        var at = arguments[2] is "MAXLEN" ? 5 : 2;
        var id = arguments[at] is not "*" ? StreamId.Parse(arguments[at])
            : now > _last.Milliseconds ? new(now, 0)
            : _last with { Sequence = _last.Sequence + 1 };
        if (id.CompareTo(_last) <= 0)
        {
            throw new RedisModelException("ERR The ID specified in XADD is equal or smaller than the target stream top item");
        }

        _entries[id] = [.. command[(at + 1)..]];
        _last = id;
        return RedisModel.Bytes(id.ToString());
    }

    public object?[] Range(string from, string to, long count) =>
        [.. Between(from, to).Take((int)Math.Min(count, int.MaxValue)).Select(Reply)];

    public object?[] RangeBackwards(string from, string to, long count) =>
        [.. Between(to, from).Reverse().Take((int)Math.Min(count, int.MaxValue)).Select(Reply)];

    public long Delete(string[] ids) => ids.Count(id => _entries.Remove(StreamId.Parse(id)));

    public long Acknowledge(string group, string[] ids) =>
        _groups.TryGetValue(group, out var held) ? ids.Count(id => held.Pending.Remove(StreamId.Parse(id))) : 0;

    public object CreateGroup(string name, string from) => _groups.TryAdd(name, new() { Last = StreamId.Parse(from) })
        ? RedisStatus.Ok
        : throw new RedisModelException("BUSYGROUP Consumer Group name already exists");

    public object? ReadGroup(string key, string group, long count, long now)
    {
        var held = Of(group, key);
        var read = _entries.Where(entry => entry.Key.CompareTo(held.Last) > 0).Take((int)count).ToArray();
        foreach (var (id, _) in read)
        {
            held.Last = id;
            held.Pending[id] = now;
        }

        object?[] stream = [RedisModel.Bytes(key), read.Select(Reply).ToArray()];
        return read.Length == 0 ? null : new object?[] { stream };
    }

    public object?[] Claim(string group, long idle, long count, long now)
    {
        var (held, claimed, gone) = (Of(group, ""), new List<object?>(), new List<object?>());
        using var pending = held.Pending.ToList().GetEnumerator();
        for (var attempts = count * 10; attempts > 0 && claimed.Count + gone.Count < count && pending.MoveNext(); attempts--)
        {
            var (id, since) = pending.Current;
            if (!_entries.TryGetValue(id, out var fields))
            {
                held.Pending.Remove(id);
                gone.Add(RedisModel.Bytes(id.ToString()));
            }
            else if (now - since >= idle)
            {
                held.Pending[id] = now;
                claimed.Add(Reply(new(id, fields)));
            }
        }

        var next = pending.MoveNext() ? pending.Current.Key : default;
        return [RedisModel.Bytes(next.ToString()), claimed.ToArray(), gone.ToArray()];
    }

    private Group Of(string name, string key) => _groups.TryGetValue(name, out var group)
        ? group
        : throw new RedisModelException($"NOGROUP No such key '{key}' or consumer group '{name}'");

    private IEnumerable<KeyValuePair<StreamId, object?[]>> Between(string from, string to)
    {
        var first = from is "-" ? default : StreamId.Parse(from);
        var last = to is "+" ? new StreamId(long.MaxValue, long.MaxValue) : StreamId.Parse(to);
        return _entries.Where(entry => entry.Key.CompareTo(first) >= 0 && entry.Key.CompareTo(last) <= 0);
    }

    private static object Reply(KeyValuePair<StreamId, object?[]> entry) =>
        new object?[] { RedisModel.Bytes(entry.Key.ToString()), entry.Value };

    private sealed class Group
    {
        public StreamId Last { get; set; }

        /// <summary>The entries that a consumer has and has not acknowledged, and since when.</summary>
        public SortedDictionary<StreamId, long> Pending { get; init; } = [];

        public Group Copy() => new() { Last = Last, Pending = new(Pending) };
    }

    private readonly record struct StreamId(long Milliseconds, long Sequence) : IComparable<StreamId>
    {
        public static StreamId Parse(string text) => text.Split('-') switch
        {
            [var time] => new(long.Parse(time, CultureInfo.InvariantCulture), 0),
            [var time, var sequence] =>
                new(long.Parse(time, CultureInfo.InvariantCulture), long.Parse(sequence, CultureInfo.InvariantCulture)),
            _ => throw new RedisModelException("ERR Invalid stream ID specified as stream command argument"),
        };

        public int CompareTo(StreamId other) => (Milliseconds, Sequence).CompareTo((other.Milliseconds, other.Sequence));

        public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Milliseconds}-{Sequence}");
    }
}
