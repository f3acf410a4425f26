using System.Globalization;
using System.Text;
using KeraLua;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// Runs the library's scripts in an interpreter of this process. Redis has Lua 5.1, this is Lua 5.4: <c>RedisModelTests</c> runs
/// every script on both.
/// </summary>
internal sealed class LuaScripts : IDisposable
{
    /// <summary>
    /// The functions that Redis adds to Lua, or that Lua 5.4 has under other names. No error crosses the frames of .NET on the stack.
    /// </summary>
    private const string Prelude = """
        unpack = table.unpack
        redis = {}
        function redis.call(...)
          local ok, reply = execute(...)
          if not ok then error(reply, 0) end
          return reply
        end
        function redis.pcall(...)
          local ok, reply = execute(...)
          return ok and reply or not ok and { err = reply }
        end
        struct = { pack = string.pack, unpack = function(format, text, at)
          local first, second, third = string.unpack(format, text, at)
          if not third then
            return first + 0.0, second
          end
          local all = table.pack(string.unpack(format, text, at))
          for i = 1, all.n - 1 do
            all[i] = all[i] + 0.0
          end
          return table.unpack(all, 1, all.n)
        end }
        """;

    [ThreadStatic]
    private static LuaScripts? _current;

    private readonly Lua _lua = new() { Encoding = Encoding.UTF8 };
    private readonly LuaFunction _execute;
    private readonly Dictionary<byte[], int> _scripts = new(ReferenceEqualityComparer.Instance);
    private readonly Dictionary<string, int> _scriptsByText = [];
    private Func<byte[][], object?> _command = _ => null;

    private LuaScripts()
    {
        _execute = _ => Execute();
        _lua.Register("execute", _execute);
        if (_lua.DoString(Prelude))
        {
            throw new InvalidOperationException(_lua.ToString(-1));
        }
    }

    /// <summary>The interpreter of this thread.</summary>
    public static LuaScripts Current => _current ??= new();

    /// <summary>Runs a script.</summary>
    /// <param name="command">Executes a command of the script.</param>
    /// <remarks>A script whose bytes are the same object is not compared again.</remarks>
    public object? Run(byte[] script, byte[][] keys, byte[][] arguments, Func<byte[][], object?> command)
    {
        _command = command;
        Push(keys);
        _lua.SetGlobal("KEYS");
        Push(arguments);
        _lua.SetGlobal("ARGV");
        _lua.RawGetInteger(LuaRegistry.Index, Compiled(script));
        if (_lua.PCall(0, 1, 0) is not LuaStatus.OK)
        {
            var message = _lua.ToString(-1);
            _lua.Pop(1);
            return new RedisError(message.StartsWith('[') ? $"ERR {message}" : message);
        }

        var reply = Reply(-1);
        _lua.Pop(1);
        return reply;
    }

    public void Dispose() => _lua.Dispose();

    private int Compiled(byte[] script)
    {
        if (_scripts.TryGetValue(script, out var compiled))
        {
            return compiled;
        }

        var text = Encoding.UTF8.GetString(script);
        if (!_scriptsByText.TryGetValue(text, out compiled))
        {
            if (_lua.LoadString(text) is not LuaStatus.OK)
            {
                throw new InvalidOperationException(_lua.ToString(-1));
            }

            _scriptsByText[text] = compiled = _lua.Ref(LuaRegistry.Index);
        }

        return _scripts[script] = compiled;
    }

    /// <summary>The function <c>execute</c> of the prelude: returns whether the command succeeded, and its reply or error.</summary>
    private int Execute()
    {
        var command = new byte[_lua.GetTop()][];
        for (var at = 1; at <= command.Length; at++)
        {
            command[at - 1] = _lua.Type(at) is not LuaType.Number ? _lua.ToBuffer(at, callMetamethod: false)
                : RedisModel.Bytes(_lua.IsInteger(at)
                    ? _lua.ToInteger(at).ToString(CultureInfo.InvariantCulture)
                    : _lua.ToNumber(at).ToString("R", CultureInfo.InvariantCulture));
        }

        var reply = _command(command);
        _lua.PushBoolean(reply is not RedisError);
        Push(reply is RedisError error ? RedisModel.Bytes(error.Message) : reply);
        return 2;
    }

    private void Push(object? reply)
    {
        switch (reply)
        {
            case null:
                _lua.PushBoolean(false);
                break;
            case long number:
                _lua.PushInteger(number);
                break;
            case byte[] bytes:
                _lua.PushBuffer(bytes);
                break;
            case RedisStatus status:
                _lua.NewTable();
                _lua.PushString(status.Text);
                _lua.SetField(-2, "ok");
                break;
            case object?[] items:
                _lua.CreateTable(items.Length, 0);
                for (var at = 0; at < items.Length; at++)
                {
                    Push(items[at]);
                    _lua.RawSetInteger(-2, at + 1);
                }

                break;
            default:
                throw new InvalidOperationException($"No script expects {reply}.");
        }
    }

    /// <summary>The value at a place of the stack, as Redis returns it to the client.</summary>
    private object? Reply(int at)
    {
        switch (_lua.Type(at))
        {
            case LuaType.Boolean:
                return _lua.ToBoolean(at) ? 1L : null;
            case LuaType.Number:
                return (long)_lua.ToNumber(at);
            case LuaType.String:
                return _lua.ToBuffer(at, callMetamethod: false);
            case LuaType.Table:
                return TableReply(at);
            default:
                return null;
        }
    }

    private object TableReply(int at)
    {
        foreach (var field in (ReadOnlySpan<string>)["err", "ok"])
        {
            var type = _lua.GetField(at, field);
            var text = type is LuaType.String ? _lua.ToString(-1) : null;
            _lua.Pop(1);
            if (text is not null)
            {
                return field is "err" ? new RedisError(text) : new RedisStatus(text);
            }
        }

        var items = new List<object?>();
        while (_lua.RawGetInteger(at, items.Count + 1) is not LuaType.Nil)
        {
            items.Add(Reply(-1));
            _lua.Pop(1);
        }

        _lua.Pop(1);
        return items.ToArray();
    }
}
