using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace CachingApi.Tests.Servers;

/// <summary>
/// A proxy before a Redis without WAITAOF that simulates one with it: it replaces the commands that concern WAITAOF, and forwards all
/// others unchanged.
/// </summary>
internal sealed class WaitAofProxy : IAsyncDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly CancellationTokenSource _stop = new();
    private readonly ConcurrentBag<TcpClient> _clients = [];
    private readonly int _target;

    public WaitAofProxy(int target)
    {
        _target = target;
        _listener.Start();
        _ = AcceptAsync();
    }

    public string ConnectionString => $"127.0.0.1:{((IPEndPoint)_listener.LocalEndpoint).Port}";

    /// <summary>Ends when the disk has the writes: then WAITAOF is answered.</summary>
    public TaskCompletionSource Disk { get; set; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>The number of local disks in the answer to WAITAOF.</summary>
    public int Copies { get; set; } = 1;

    /// <summary>The number of replicas' disks in the answer to WAITAOF.</summary>
    public int Replicas { get; set; }

    /// <summary>The numbers of local disks and of replicas in the last WAITAOF.</summary>
    public string[] Asked { get; private set; } = [];

    /// <summary>How often WAITAOF was sent.</summary>
    public int Waits { get; private set; }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        _listener.Stop();
        foreach (var client in _clients)
        {
            client.Close();
        }

        _stop.Dispose();
    }

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                _ = ServeAsync(await _listener.AcceptTcpClientAsync(_stop.Token));
            }
        }
        catch (Exception error) when (error is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // The proxy is closed.
        }
    }

    private async Task ServeAsync(TcpClient client)
    {
        using var server = new TcpClient();
        _clients.Add(client);
        try
        {
            await server.ConnectAsync(IPAddress.Loopback, _target);
            client.NoDelay = server.NoDelay = true;
            var replies = server.GetStream().CopyToAsync(client.GetStream());
            await Task.WhenAny(replies, ForwardAsync(new BufferedStream(client.GetStream(), 64 * 1024), server.GetStream()));
        }
        catch (Exception error) when (error is IOException or SocketException or ObjectDisposedException or InvalidOperationException)
        {
            // One side has closed the connection.
        }
        finally
        {
            client.Close();
        }
    }

    private async Task ForwardAsync(Stream from, NetworkStream to)
    {
        while (await ReadAsync(from) is { } command)
        {
            if (Encoding.ASCII.GetString(command[0]) == "WAITAOF")
            {
                Waits++;
                Asked = [.. command[1..3].Select(Encoding.ASCII.GetString)];
                await Disk.Task;
                command = [.. new[] { "EVAL", $"return {{{Copies},{Replicas}}}", "0" }.Select(Encoding.ASCII.GetBytes)];
            }
            else if (command.Length == 3 && Encoding.ASCII.GetString(command[2]) == "WAITAOF")
            {
                command[2] = "GET"u8.ToArray();
            }

            var bytes = new MemoryStream();
            bytes.Write(Encoding.ASCII.GetBytes($"*{command.Length}\r\n"));
            foreach (var part in command)
            {
                bytes.Write(Encoding.ASCII.GetBytes($"${part.Length}\r\n"));
                bytes.Write(part);
                bytes.Write("\r\n"u8);
            }

            await to.WriteAsync(bytes.GetBuffer().AsMemory(0, (int)bytes.Length));
        }
    }

    /// <summary>One command: an array of bulk strings (RESP).</summary>
    private static async Task<byte[][]?> ReadAsync(Stream from)
    {
        if (await LineAsync(from) is not { Length: > 1 } header)
        {
            return null;
        }

        var command = new byte[int.Parse(header[1..], System.Globalization.CultureInfo.InvariantCulture)][];
        for (var i = 0; i < command.Length; i++)
        {
            command[i] = new byte[int.Parse((await LineAsync(from))![1..], System.Globalization.CultureInfo.InvariantCulture)];
            await from.ReadExactlyAsync(command[i]);
            await LineAsync(from);
        }

        return command;
    }

    private static async Task<string?> LineAsync(Stream from)
    {
        var (line, next) = (new StringBuilder(), new byte[1]);
        while (await from.ReadAsync(next) == 1)
        {
            if (next[0] == '\n')
            {
                return line.ToString().TrimEnd('\r');
            }

            line.Append((char)next[0]);
        }

        return null;
    }
}
