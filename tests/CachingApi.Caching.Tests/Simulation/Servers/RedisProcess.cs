using System.Buffers.Binary;
using System.Globalization;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>A Redis server and its successors: after a failover, another server has its address.</summary>
internal sealed class RedisProcess(World world, string name)
{
    /// <summary>The place of the time in the header of an entry: see <see cref="CacheEntry"/>.</summary>
    private const int CreatedAt = 28;

    private readonly List<SimulatedMultiplexer> _connections = [];
    private readonly List<(byte[][] Command, long Micros)> _log = [];
    private readonly RedisModel _replica = new();
    private RedisModel _model = new();
    private int _incarnation = 1;
    private string _key = "";

    public string Name => name;

    public RedisModel Model => _model;

    /// <summary>How far the server's clock is ahead.</summary>
    public TimeSpan Skew { get; set; }

    /// <summary>Called with each message that is published, and the first key of the script that publishes it.</summary>
    public Action<string, string> Published { get; set; } = (_, _) => { };

    /// <summary>The lines of <c>INFO</c> that the library reads.</summary>
    public string Info => string.Create(
        CultureInfo.InvariantCulture,
        $"# Server\r\nrun_id:{_incarnation:x12}{name.Length:x28}\r\n# Replication\r\nmaster_replid:{name}-data-{_incarnation}\r\n");

    public void Connect(SimulatedMultiplexer connection) => _connections.Add(connection);

    public object? Execute(byte[][] command)
    {
        var micros = world.Micros + (long)Skew.TotalMicroseconds;
        (_model.Publish, _model.Info) = (PublishTo, Info);
        if (_model.WithScript(command) is { } replicated)
        {
            _log.Add((replicated, micros));
        }

        _key = command is [_, _, _, var key, ..] ? RedisModel.Text(key) : "";
        return _model.Execute(command, micros);
    }

    /// <summary>An operator, or the server's memory limit, removes all keys.</summary>
    public void Flush()
    {
        world.Note(null, $"{name} loses all keys");
        Execute([RedisModel.Bytes("FLUSHALL")]);
    }

    /// <summary>The server's memory is full: it evicts the entries that were made before a time.</summary>
    public void EvictEntries(DateTimeOffset before)
    {
        world.Note(null, $"{name} evicts entries");
        foreach (var key in _model.Keys.ToArray())
        {
            byte[][] get = [RedisModel.Bytes("GET"), RedisModel.Bytes(key)];
            if (_model.Execute(get, world.Micros) is byte[] { Length: > CreatedAt + 8 } entry
                && BinaryPrimitives.ReadInt64BigEndian(entry.AsSpan(CreatedAt)) < before.ToUnixTimeMilliseconds())
            {
                Execute([RedisModel.Bytes("DEL"), RedisModel.Bytes(key)]);
            }
        }
    }

    /// <summary>
    /// The server dies, and a replica that has not received the last commands takes its place. Every connection breaks.
    /// </summary>
    public void FailOver(int lost)
    {
        world.Note(null, $"{name} dies, and a replica that lacks the last {Math.Min(lost, _log.Count)} commands takes its place");
        _replica.Info = Info; // scripts read it
        foreach (var (command, micros) in _log.Take(Math.Max(0, _log.Count - lost)))
        {
            _replica.Execute(command, micros);
        }

        _log.Clear();
        _model = _replica.Copy();
        _incarnation++;
        foreach (var connection in _connections.ToArray())
        {
            connection.Break("the server has died");
        }
    }

    private int PublishTo(string channel, byte[] message)
    {
        Published(RedisModel.Text(message), _key);
        var receivers = 0;
        foreach (var connection in _connections)
        {
            receivers += connection.Publish(channel, message) ? 1 : 0;
        }

        return receivers;
    }
}
