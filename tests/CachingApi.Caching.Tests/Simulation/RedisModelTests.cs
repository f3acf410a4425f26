using System.Globalization;
using System.Text.RegularExpressions;
using CachingApi.Caching.Operations;
using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// The Redis of the simulations replies as a real one does: to random sequences of the commands and scripts that the library sends, with
/// arguments as the library sends them, and at last both hold the same.
/// </summary>
public sealed partial class RedisModelTests(TestServers servers)
{
    private static readonly Dictionary<string, string> Scripts = new[]
    {
        ("read_or_lease", typeof(RedisTier)), ("lease", typeof(RedisTier)), ("compare_and_set", typeof(RedisTier)),
        ("evict", typeof(RedisTier)), ("generation", typeof(RedisTier)), ("heartbeat", typeof(Backplane)),
        ("change_position", typeof(SourceChanges)), ("write_behind_accept", typeof(WriteBehind)),
        ("write_behind_fence", typeof(WriteBehind)), ("write_behind_confirm", typeof(WriteBehind)),
        ("write_behind_finish", typeof(WriteBehindQueue)), ("write_behind_reaccept", typeof(WriteBehindQueue)),
        ("write_behind_forget", typeof(WriteBehindQueue)), ("write_behind_give_up", typeof(WriteBehindQueue)),
    }.ToDictionary(script => script.Item1, script => Lua.Load(script.Item2, $"{script.Item1}.lua"));

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task Its_replies_are_those_of_a_real_one(int seed)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{servers.Redis},protocol=resp2");
        var (real, model) = (connection.GetDatabase(), new RedisModel());
        var (commands, micros) = (new Commands(seed, $"{{model-{Guid.NewGuid():N}}}"), 1_800_000_000_000_000L);
        for (var number = 0; number < 1500; number++)
        {
            micros += 1000;
            var command = commands.Next(micros);
            var text = string.Join(' ', command.Select(RedisModel.Text));
            Assert.Equal($"{text}: {await RealAsync(real, command)}", $"{text}: {Text(model.Execute(command, micros))}");
        }
    }

    [Fact]
    public async Task Keys_expire_as_in_a_real_one()
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
        var (real, model, key) = (connection.GetDatabase(), new RedisModel(), $"model-{Guid.NewGuid():N}");
        byte[][] set = [.. new[] { "SET", key, "it", "PX", "60000" }.Select(RedisModel.Bytes)];
        await RealAsync(real, set);
        model.Execute(set, 0);
        Assert.InRange(long.Parse(await RealAsync(real, ["PTTL", key]), CultureInfo.InvariantCulture), 50_000, 60_000);
        Assert.Equal(60_000L, model.Execute([.. new[] { "PTTL", key }.Select(RedisModel.Bytes)], 0));
        Assert.NotNull(model.Execute([.. new[] { "GET", key }.Select(RedisModel.Bytes)], 60_000_000));
        Assert.Null(model.Execute([.. new[] { "GET", key }.Select(RedisModel.Bytes)], 60_001_000));
    }

    private static Task<string> RealAsync(IDatabase real, string[] command) => RealAsync(real, Array.ConvertAll(command, RedisModel.Bytes));

    private static async Task<string> RealAsync(IDatabase real, byte[][] command)
    {
        try
        {
            return Text(await real.ExecuteAsync(RedisModel.Text(command[0]), [.. command.Skip(1)]));
        }
        catch (RedisServerException refusal)
        {
            return Error(refusal.Message);
        }
    }

    private static string Text(RedisResult result) => result.IsNull ? "nothing"
        : result.Length >= 0 ? $"[{string.Join(' ', Enumerable.Range(0, result.Length).Select(at => Text(result[at])))}]"
        : RedisModel.Text((byte[])result!);

    private static string Text(object? reply) => reply switch
    {
        null => "nothing",
        long number => number.ToString(CultureInfo.InvariantCulture),
        byte[] bytes => RedisModel.Text(bytes),
        RedisStatus status => status.Text,
        RedisError error => Error(error.Message),
        object?[] items => $"[{string.Join(' ', items.Select(Text))}]",
        _ => throw new NotSupportedException(),
    };

    /// <summary>The first word; the others name the script and the line, which differ.</summary>
    private static string Error(string message) => message.Split(' ')[0];

    /// <summary>Random commands on a few keys.</summary>
    private sealed partial class Commands(int seed, string prefix)
    {
        private readonly Random _random = new(seed);
        private long _token = 1_700_000_000_000_000;

        /// <remarks>
        /// A real Redis has its own clock, so each script gets the time as an argument, and its <c>TIME</c> is replaced by that.
        /// </remarks>
        public byte[][] Next(long micros)
        {
            var words = _random.Next(28) switch
            {
                0 => ["GET", Key("entry")],
                1 => ["MGET", Key("entry"), Key("entry"), Key("hash")],
                2 => ["SET", Key("entry"), Entry(), "PX", "600000"],
                3 => ["HMGET", Key("hash"), "token", "version", "over", "value"],
                4 => ["HSET", Key("hash"), "token", Token(), "version", Number(9), "floor", Number(9)],
                5 => ["XLEN", Key("queue")],
                6 => ["XRANGE", Key("queue"), "-", "+"],
                7 => ["XREVRANGE", Key("queue"), "+", "-", "COUNT", "2"],
                8 => ["XGROUP", "CREATE", Key("queue"), "writers", "0-0", "MKSTREAM"],
                9 or 10 => ["XREADGROUP", "GROUP", "writers", "writers", "COUNT", "2", "STREAMS", Key("queue"), ">"],
                11 => ["XAUTOCLAIM", Key("queue"), "writers", "writers", "0", "0-0", "COUNT", "3"],
                12 => ["XDEL", Key("queue"), $"{Token()}-0"],
                13 => ["DEL", Key("entry"), Key("lease")],
                14 => _random.Next(2) == 0 ? ["EXISTS", Key("entry")] : ["SET", Key("position"), Number(3)],
                15 => ["LREM", $"{Key("hash")}:dead-letters", "0", $"{micros / 1000}-0"],
                16 or 17 => Script(
                    "read_or_lease",
                    micros,
                    [Key("entry"), Key("lease")],
                    [Owner(), "1000", Time(micros), Mark(), Time(micros), "600000"]),
                18 => Script(
                    "lease",
                    micros,
                    [Key("lease")],
                    [Owner(), Pick("0", "1000"), "600000", "channel", "over", Pick("0", "600000")]),
                19 or 20 => Script(
                    "compare_and_set",
                    micros,
                    [Key("entry"), Key("lease")],
                    [
                        Entry(), "600000", _random.Next(2) == 0 ? "" : Owner(), "channel", "changed", "over",
                        _random.Next(2) == 0 ? "" : $"{(micros / 1000) - _random.Next(40_000)}", "30000", Number(2),
                    ]),
                21 => Script("evict", micros, [Key("entry"), Key("lease")], [Entry(2, 0), "600000", "channel", "changed", "over"]),
                22 => Script(
                    "generation",
                    micros,
                    [Key("generation"), Key("incarnations"), Key("causes")],
                    [
                        Pick("current", "next", "unless"), "channel", "cleared %s", Number(3), "60000", "1", $"redis {Number(3)}", "7",
                        "id", Number(9), Number(9),
                    ]),
                23 => Script("change_position", micros, [Key("position")], [Number(3), Number(3)]),
                24 => Script(
                    "write_behind_accept",
                    micros,
                    [Key("queue"), Key("token"), Key("hash")],
                    [Number(6), "id", Number(9), Pick("0", Token()), Pick("", ",1,2,3,4,5,"), $"value {Number(9)}"]),
                25 => Script("write_behind_fence", micros, [Key("token"), Key("hash")], [_random.Next(2) == 0 ? "0" : Token(), "600000"]),
                26 => Script(
                    "write_behind_finish",
                    micros,
                    [Key("queue"), Key("dead"), Key("hash")],
                    ["writers", "600000", "10000", "2", Token(), Number(9), Pick("", "refused")]),
                _ => _random.Next(5) switch
                {
                    0 => Script(
                        "write_behind_reaccept",
                        micros,
                        [Key("queue"), Key("token"), Key("hash")],
                        ["writers", Token(), Number(9), Token(), Number(9), "600000"]),
                    1 => Script("write_behind_confirm", micros, [Key("hash")], [Number(9), "600000"]),
                    2 => Script("write_behind_forget", micros, [Key("dead"), $"{Key("hash")}:dead-letters", Key("hash")], ["600000"]),
                    3 => Script("write_behind_give_up", micros, [Key("hash")], [Token(), Number(9), Token(), "600000"]),
                    _ => Script("heartbeat", micros, [Key("heartbeat")], ["channel", "it"]),
                },
            };
            return Array.ConvertAll(words, RedisModel.Bytes);
        }

        private static string[] Script(string name, long micros, string[] keys, string[] arguments)
        {
            var at = arguments.Length;
            var time = $"{{ ARGV[{at + 1}], ARGV[{at + 2}] }}";
            var counted = CountedArguments().Replace(Scripts[name].Replace("redis.call('TIME')", time, StringComparison.Ordinal), $"{at}");
            return
            [
                "EVAL", counted, $"{keys.Length}", .. keys, .. arguments, $"{micros / 1_000_000}", $"{micros % 1_000_000}",
            ];
        }

        private string Key(string kind) => $"{prefix}:{kind}:{(kind is "entry" or "lease" ? _random.Next(2) : 0)}";

        private string Number(int most) => $"{1 + _random.Next(most)}";

        private string Pick(params string[] words) => words[_random.Next(words.Length)];

        private string Owner() => new((char)('a' + _random.Next(3)), 32);

        private string Token() => $"{_token + _random.Next(4)}";

        private string Time(long micros) => $"{(micros / 1000) + _random.Next(-2000, 2000)}";

        private static string Mark() => $"\u00ca\u0003{new string('h', 8)}";

        private string Entry() => Entry(_random.Next(3), 1 + _random.Next(4));

        /// <summary>A header as <see cref="CacheEntry"/> has it, and a body.</summary>
        private string Entry(int kind, long version)
        {
            var text = $"\u00ca\u0003{(char)kind}\0{new string('h', 8)}{Big(version)}{Big(_random.Next(3))}"
                + $"{Big(1_800_000_000_000)}{Big(1_800_000_000_000 + _random.Next(2_000_000))}{Big(1_800_000_000_000 + 4_000_000)}";
            return text.PadRight(64, 'c') + (kind == 0 ? $"body {_random.Next(9)}" : "");
        }

        private static string Big(long number) => RedisModel.Text([.. BitConverter.GetBytes(number).Reverse()]);

        [GeneratedRegex("#ARGV")]
        private static partial Regex CountedArguments();
    }
}
