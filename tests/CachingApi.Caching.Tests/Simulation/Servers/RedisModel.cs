using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Security.Cryptography;
using System.Text;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>A reply that is an error.</summary>
internal sealed record RedisError(string Message);

/// <summary>A reply such as <c>OK</c>.</summary>
internal sealed record RedisStatus(string Text)
{
    public static RedisStatus Ok { get; } = new("OK");
}

/// <summary>
/// The commands of Redis that the library and its scripts use, in this process and on a given clock. <c>RedisModelTests</c> compares
/// it with a real Redis.
/// </summary>
/// <remarks>
/// Replies are <c>null</c>, <see cref="long"/>, bytes, <see cref="RedisStatus"/>, <see cref="RedisError"/>, or arrays of these. Keys are
/// Latin-1 texts, so that every key of bytes is one of them.
/// </remarks>
internal sealed class RedisModel
{
    private static readonly ConditionalWeakTable<byte[], string> Hashes = [];

    private readonly Dictionary<string, Held> _keys = [];

    /// <summary>The scripts that it has run, by their hashes. A copy has none, as a replica.</summary>
    private readonly Dictionary<string, byte[]> _scripts = [];
    private long _micros;

    /// <summary>Called for each message that a command publishes; returns how many subscribers receive it.</summary>
    public Func<string, byte[], int> Publish { get; set; } = (_, _) => 0;

    /// <summary>The reply to <c>INFO</c>.</summary>
    public string Info { get; set; } = "";

    /// <summary>The names of all keys, also of those that have expired and were not asked for since.</summary>
    public IReadOnlyCollection<string> Keys => _keys.Keys;

    private long Now => _micros / 1000;

    public static byte[] Bytes(string text) => Encoding.Latin1.GetBytes(text);

    public static string Text(byte[] bytes) => Encoding.Latin1.GetString(bytes);

    /// <summary>Executes a command at a time, in microseconds since the Unix epoch.</summary>
    public object? Execute(byte[][] command, long micros)
    {
        _micros = micros;
        return Execute(command);
    }

    private object? Execute(byte[][] command)
    {
        if (command[0].AsSpan().SequenceEqual("EVAL"u8))
        {
            _scripts[Hashes.GetValue(command[1], HashOf)] = command[1];
            return Evaluate(command);
        }

        if (command[0].AsSpan().SequenceEqual("EVALSHA"u8))
        {
            return WithScript(command) is { } known
                ? Evaluate(known)
                : new RedisError("NOSCRIPT No matching script. Please use EVAL.");
        }

        var arguments = Array.ConvertAll(command, Text);
        try
        {
            return arguments[0] switch
            {
                "TIME" => new object?[] { Bytes(Number(_micros / 1_000_000)), Bytes(Number(_micros % 1_000_000)) },
                "PUBLISH" => (long)Publish(arguments[1], command[2]),
                "FLUSHALL" => FlushAll(),
                "EXISTS" => Find(arguments[1]) is null ? 0L : 1L,
                "INFO" => Bytes(Info),
                "TTL" => Find(arguments[1]) is not { } held ? -2L : held.ExpiresAt is { } at ? (at - Now + 500) / 1000 : -1L,
                "EXPIRE" => ExpireAt(arguments[1], Now + (1000 * Integer(arguments[2]))),
                "RENAME" => Rename(arguments[1], arguments[2]),
                "DEL" or "UNLINK" => (long)arguments.Skip(1).Count(key => Find(key) is not null && _keys.Remove(key)),
                "PTTL" => Find(arguments[1]) is not { } held ? -2L : held.ExpiresAt is { } at ? at - Now : -1L,
                "PEXPIRE" => ExpireAt(arguments[1], Now + Integer(arguments[2])),
                "PERSIST" => Find(arguments[1])?.ExpiresAt is null ? 0L : ExpireAt(arguments[1], null),
                "GET" => Of<byte[]>(arguments[1]),
                "MGET" => Array.ConvertAll(arguments[1..], key => (object?)(Find(key)?.Value as byte[])),
                "SET" => Set(command, arguments),
                "HGET" => Of<Dictionary<string, byte[]>>(arguments[1])?.GetValueOrDefault(arguments[2]),
                "HMGET" => Of<Dictionary<string, byte[]>>(arguments[1]) is var hash
                    ? Array.ConvertAll(arguments[2..], field => (object?)hash?.GetValueOrDefault(field))
                    : null,
                "HLEN" => (long)(Of<Dictionary<string, byte[]>>(arguments[1])?.Count ?? 0),
                "HGETALL" => (Of<Dictionary<string, byte[]>>(arguments[1]) ?? [])
                    .SelectMany(field => new object?[] { Bytes(field.Key), field.Value }).ToArray(),
                "HVALS" => (Of<Dictionary<string, byte[]>>(arguments[1]) ?? []).Values.ToArray<object?>(),
                "HSET" => HashSet(command, arguments),
                "HSETNX" => OrNew<Dictionary<string, byte[]>>(arguments[1]).TryAdd(arguments[2], command[3]) ? 1L : 0L,
                "HDEL" => HashDelete(arguments),
                "HINCRBY" => HashIncrement(arguments),
                "RPUSH" => Push(command, arguments),
                "LPOP" => Pop(arguments[1]),
                "LRANGE" => Range(arguments),
                "LREM" => RemoveFromList(command, arguments),
                "XADD" or "XLEN" or "XRANGE" or "XREVRANGE" or "XDEL" or "XACK" or "XGROUP" or "XREADGROUP" or "XAUTOCLAIM" =>
                    ExecuteOnStream(command, arguments),
                var unknown => new RedisError($"ERR unknown command '{unknown}'"),
            };
        }
        catch (RedisModelException refusal)
        {
            return new RedisError(refusal.Message);
        }
    }

    /// <summary>The command with the script that it names by a hash; <c>null</c> if the script is not known.</summary>
    public byte[][]? WithScript(byte[][] command) => !command[0].AsSpan().SequenceEqual("EVALSHA"u8) ? command
        : _scripts.TryGetValue(Text(command[1]), out var script) ? [[.. "EVAL"u8], script, .. command[2..]]
        : null;

    /// <summary>A copy, which later commands do not change.</summary>
    public RedisModel Copy()
    {
        var copy = new RedisModel { _micros = _micros };
        foreach (var (key, held) in _keys)
        {
            copy._keys[key] = new(CopyOf(held.Value), held.ExpiresAt);
        }

        return copy;
    }

    private static object CopyOf(object value) => value switch
    {
        Dictionary<string, byte[]> hash => new Dictionary<string, byte[]>(hash),
        List<byte[]> list => new List<byte[]>(list),
        StreamModel stream => stream.Copy(),
        _ => value,
    };

    [SuppressMessage("Security", "CA5350", Justification = "Redis names scripts by their SHA-1.")]
    private static string HashOf(byte[] script) => Convert.ToHexString(SHA1.HashData(script));

    private object? Evaluate(byte[][] command)
    {
        var keys = int.Parse(command[2], CultureInfo.InvariantCulture);
        return LuaScripts.Current.Run(command[1], command[3..(3 + keys)], command[(3 + keys)..], Execute);
    }

    private RedisStatus FlushAll()
    {
        _keys.Clear();
        return RedisStatus.Ok;
    }

    private RedisStatus? Set(byte[][] command, string[] arguments)
    {
        var (key, held) = (arguments[1], Find(arguments[1]));
        var expiresAt = default(long?);
        for (var at = 3; at < arguments.Length; at++)
        {
            switch (arguments[at])
            {
                case "NX" when held is not null:
                    return null;
                case "NX":
                    break;
                case "KEEPTTL":
                    expiresAt = held?.ExpiresAt;
                    break;
                case "PX":
                    expiresAt = Now + Integer(arguments[++at]);
                    break;
                case "EX":
                    expiresAt = Now + (1000 * Integer(arguments[++at]));
                    break;
                case var option:
                    throw new RedisModelException($"ERR syntax error: {option}");
            }
        }

        _keys[key] = new(command[2], expiresAt);
        return RedisStatus.Ok;
    }

    private long ExpireAt(string key, long? at)
    {
        if (Find(key) is not { } held)
        {
            return 0;
        }

        _keys[key] = held with { ExpiresAt = at };
        return 1;
    }

    private RedisStatus Rename(string from, string to)
    {
        _keys[to] = Find(from) ?? throw new RedisModelException("ERR no such key");
        _keys.Remove(from);
        return RedisStatus.Ok;
    }

    private long HashSet(byte[][] command, string[] arguments)
    {
        var (hash, added) = (OrNew<Dictionary<string, byte[]>>(arguments[1]), 0L);
        for (var at = 2; at < arguments.Length; at += 2)
        {
            added += hash.ContainsKey(arguments[at]) ? 0 : 1;
            hash[arguments[at]] = command[at + 1];
        }

        return added;
    }

    private long HashDelete(string[] arguments)
    {
        if (Of<Dictionary<string, byte[]>>(arguments[1]) is not { } hash)
        {
            return 0;
        }

        var removed = arguments.Skip(2).Count(hash.Remove);
        RemoveIfEmpty(arguments[1], hash.Count);
        return removed;
    }

    private long HashIncrement(string[] arguments)
    {
        var hash = OrNew<Dictionary<string, byte[]>>(arguments[1]);
        var value = (hash.TryGetValue(arguments[2], out var held) ? Integer(Text(held)) : 0) + Integer(arguments[3]);
        hash[arguments[2]] = Bytes(Number(value));
        return value;
    }

    private long Push(byte[][] command, string[] arguments)
    {
        var list = OrNew<List<byte[]>>(arguments[1]);
        list.AddRange(command[2..]);
        return list.Count;
    }

    private byte[]? Pop(string key)
    {
        if (Of<List<byte[]>>(key) is not { } list)
        {
            return null;
        }

        var first = list[0];
        list.RemoveAt(0);
        RemoveIfEmpty(key, list.Count);
        return first;
    }

    private object?[] Range(string[] arguments) => Integer(arguments[2]) == 0 && Integer(arguments[3]) == -1
        ? [.. Of<List<byte[]>>(arguments[1]) ?? []]
        : throw new RedisModelException("ERR only whole lists are supported");

    private long RemoveFromList(byte[][] command, string[] arguments)
    {
        var list = Of<List<byte[]>>(arguments[1]) ?? [];
        var removed = list.RemoveAll(item => item.AsSpan().SequenceEqual(command[3]));
        RemoveIfEmpty(arguments[1], list.Count);
        return Integer(arguments[2]) == 0 ? removed : throw new RedisModelException("ERR only all items are supported");
    }

    private object? ExecuteOnStream(byte[][] command, string[] arguments)
    {
        var key = arguments[0] is "XGROUP" ? arguments[2] : arguments[0] is "XREADGROUP" ? arguments[^2] : arguments[1];
        var creates = arguments[0] is "XADD" || arguments is ["XGROUP", "CREATE", .., "MKSTREAM"];
        var stream = creates ? OrNew<StreamModel>(key) : Of<StreamModel>(key) ?? new();
        return arguments[0] switch
        {
            "XADD" => stream.Add(command, arguments, Now),
            "XLEN" => stream.Length,
            "XRANGE" => stream.Range(arguments[2], arguments[3], arguments is [.., "COUNT", var count] ? Integer(count) : long.MaxValue),
            "XREVRANGE" =>
                stream.RangeBackwards(arguments[2], arguments[3], arguments is [.., "COUNT", var most] ? Integer(most) : long.MaxValue),
            "XDEL" => stream.Delete(arguments[2..]),
            "XACK" => stream.Acknowledge(arguments[2], arguments[3..]),
            "XGROUP" => stream.CreateGroup(arguments[3], arguments[4]),
            "XREADGROUP" when arguments is [_, "GROUP", var group, _, "COUNT", var count, "STREAMS", _, ">"] =>
                stream.ReadGroup(key, group, Integer(count), Now),
            "XAUTOCLAIM" when arguments is [_, _, var group, _, var idle, _, "COUNT", var count] =>
                stream.Claim(group, Integer(idle), Integer(count), Now),
            _ => throw new RedisModelException("ERR syntax error"),
        };
    }

    private Held? Find(string key)
    {
        if (!_keys.TryGetValue(key, out var held))
        {
            return null;
        }

        if (held.ExpiresAt is not { } at || Now <= at)
        {
            return held;
        }

        _keys.Remove(key);
        return null;
    }

    private T? Of<T>(string key) where T : class => Find(key)?.Value is not { } value ? null
        : value as T ?? throw new RedisModelException("WRONGTYPE Operation against a key holding the wrong kind of value");

    private T OrNew<T>(string key) where T : class, new()
    {
        if (Of<T>(key) is { } held)
        {
            return held;
        }

        var made = new T();
        _keys[key] = new(made, null);
        return made;
    }

    private void RemoveIfEmpty(string key, int count)
    {
        if (count == 0)
        {
            _keys.Remove(key);
        }
    }

    private static string Number(long number) => number.ToString(CultureInfo.InvariantCulture);

    private static long Integer(string text) => long.TryParse(text, CultureInfo.InvariantCulture, out var number)
        ? number
        : throw new RedisModelException("ERR value is not an integer or out of range");

    private sealed record Held(object Value, long? ExpiresAt);
}

/// <summary>A refusal of <see cref="RedisModel"/>.</summary>
internal sealed class RedisModelException(string message) : Exception(message);
