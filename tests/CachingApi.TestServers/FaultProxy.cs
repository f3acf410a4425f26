using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace CachingApi.Tests.Servers;

/// <summary>A TCP proxy before a server. It can cut connections, refuse new ones, and delay, hold or discard data.</summary>
internal sealed class FaultProxy : IAsyncDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly ConcurrentDictionary<TcpClient, byte> _clients = new();
    private readonly CancellationTokenSource _stop = new();
    private readonly int _target;
    private volatile bool _refuses;
    private int _lost;

    public FaultProxy(int target)
    {
        _target = target;
        _listener.Start();
        _ = AcceptAsync();
    }

    private volatile Held? _held;

    public int Port => ((IPEndPoint)_listener.LocalEndpoint).Port;

    public string ConnectionString => $"127.0.0.1:{Port}";

    /// <summary>How long all data is delayed, in each direction.</summary>
    public TimeSpan Delay { get; set; }

    /// <summary>Whether data is discarded: connections stay open and nothing arrives.</summary>
    public bool Swallows { get; set; }

    /// <summary>Data from the server that contains one of these texts is discarded, and the connection stays open.</summary>
    public IReadOnlyList<string> Loses { get; set; } = [];

    /// <summary>How often data was discarded because of <see cref="Loses"/>.</summary>
    public int Lost => _lost;

    /// <summary>Holds the next data that contains a text, and all later data of its connection; ends when it is held.</summary>
    public Task HoldAsync(string text)
    {
        _held = new(text);
        return _held.Seen.Task;
    }

    /// <summary>Releases the held data.</summary>
    public void Release()
    {
        _held?.Released.SetResult();
        _held = null;
    }

    /// <summary>Closes every connection and refuses new ones.</summary>
    public void Cut()
    {
        _refuses = true;
        foreach (var client in _clients.Keys)
        {
            client.Close();
        }
    }

    public void Mend() => _refuses = false;

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        _listener.Stop();
        Cut();
        _stop.Dispose();
    }

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                var client = await _listener.AcceptTcpClientAsync(_stop.Token);
                if (_refuses)
                {
                    client.Close();
                    continue;
                }

                _ = ServeAsync(client);
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
        _clients[client] = 0;
        try
        {
            await server.ConnectAsync(IPAddress.Loopback, _target);
            client.NoDelay = server.NoDelay = true;
            await Task.WhenAny(
                PumpAsync(client.GetStream(), server.GetStream(), loses: false),
                PumpAsync(server.GetStream(), client.GetStream(), loses: true));
        }
        catch (Exception error) when (error is IOException or SocketException or ObjectDisposedException or InvalidOperationException)
        {
            // One side has closed the connection.
        }
        finally
        {
            _clients.TryRemove(client, out _);
            client.Close();
        }
    }

    private async Task PumpAsync(NetworkStream from, NetworkStream to, bool loses)
    {
        var buffer = new byte[64 * 1024];
        int count;
        while ((count = await from.ReadAsync(buffer)) > 0)
        {
            if (Delay > TimeSpan.Zero)
            {
                await Task.Delay(Delay);
            }

            if (_held is { } held && Encoding.UTF8.GetString(buffer, 0, count).Contains(held.Text, StringComparison.Ordinal))
            {
                held.Seen.TrySetResult();
                await held.Released.Task;
            }

            if (loses && Loses is { Count: > 0 } texts
                && Encoding.UTF8.GetString(buffer, 0, count) is var data
                && texts.Any(text => data.Contains(text, StringComparison.Ordinal)))
            {
                Interlocked.Increment(ref _lost);
            }
            else if (!Swallows)
            {
                await to.WriteAsync(buffer.AsMemory(0, count));
            }
        }
    }

    private sealed record Held(string Text)
    {
        public TaskCompletionSource Seen { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public TaskCompletionSource Released { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
