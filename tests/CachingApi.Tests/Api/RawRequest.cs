using System.Globalization;
using System.Net.Sockets;
using System.Text;

namespace CachingApi.Tests.Api;

/// <summary>An answer as it was received; <c>null</c> stands for a connection that was closed without an answer.</summary>
internal sealed record RawAnswer(int Status, string Head, string Body)
{
    /// <summary>A header's value; empty if the answer does not have it.</summary>
    public string Header(string name) =>
        Head.Split("\r\n")
            .FirstOrDefault(line => line.StartsWith($"{name}: ", StringComparison.OrdinalIgnoreCase))?[(name.Length + 2)..] ?? "";
}

/// <summary>Sends bytes that no client library has changed.</summary>
internal static class RawRequest
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    /// <summary>Sends a request and reads the answer until the server closes the connection.</summary>
    /// <param name="reset">Whether the client resets the connection after the last byte and reads no answer.</param>
    /// <param name="close">Whether the client closes its half of the connection after the last byte, as if the rest were cut off.</param>
    public static async Task<RawAnswer?> SendAsync(Uri server, ReadOnlyMemory<byte> request, bool reset = false, bool close = false)
    {
        using var patience = new CancellationTokenSource(Patience);
        using var client = new TcpClient { NoDelay = true };
        await client.ConnectAsync(server.Host, server.Port, patience.Token);
        await using var stream = client.GetStream();
        try
        {
            await stream.WriteAsync(request, patience.Token);
            if (reset)
            {
                client.LingerState = new(enable: true, seconds: 0);
                return null;
            }

            if (close)
            {
                client.Client.Shutdown(SocketShutdown.Send);
            }

            using var answer = new MemoryStream();
            try
            {
                await stream.CopyToAsync(answer, patience.Token);
            }
            catch (IOException)
            {
                // The server has not read all of the request, so its close is a reset, which may cut the answer off.
            }

            return Parse(Encoding.UTF8.GetString(answer.GetBuffer(), 0, (int)answer.Length));
        }
        catch (IOException)
        {
            return null; // the server closed the connection before it had all of the request
        }
    }

    /// <summary>Sends a request that expects 100, and resets the connection when the service reads the body.</summary>
    public static async Task ResetInBodyAsync(Uri server, ReadOnlyMemory<byte> request, string body)
    {
        using var patience = new CancellationTokenSource(Patience);
        using var client = new TcpClient { NoDelay = true, LingerState = new(enable: true, seconds: 0) };
        await client.ConnectAsync(server.Host, server.Port, patience.Token);
        await using var stream = client.GetStream();
        await stream.WriteAsync(request, patience.Token);
        await stream.ReadExactlyAsync(new byte["HTTP/1.1 100 Continue\r\n\r\n".Length], patience.Token);
        await stream.WriteAsync(Encoding.UTF8.GetBytes(body), patience.Token);
    }

    private static RawAnswer? Parse(string answer)
    {
        if (answer.Length == 0)
        {
            return null;
        }

        var parts = answer.Split("\r\n\r\n", 2);
        if (parts[0].StartsWith("HTTP/1.1 100 ", StringComparison.Ordinal))
        {
            return Parse(parts[1]);
        }

        if (parts.Length < 2 || Body(parts[0], parts[1]) is not { } body)
        {
            return null;
        }

        return new(int.Parse(parts[0].Split(' ')[1], CultureInfo.InvariantCulture), parts[0], body);
    }

    private static string? Body(string head, string body) =>
        head.Contains("\r\nTransfer-Encoding: chunked", StringComparison.OrdinalIgnoreCase) ? Unchunked(body) : body;

    /// <summary>A body of chunks; <c>null</c> if it is cut off.</summary>
    /// <remarks>Sizes count bytes, so the text is turned into bytes again.</remarks>
    private static string? Unchunked(string text)
    {
        var (bytes, body, position) = (Encoding.UTF8.GetBytes(text), new MemoryStream(), 0);
        while (true)
        {
            var end = position < bytes.Length ? Array.IndexOf(bytes, (byte)'\r', position) : -1;
            if (end < 0)
            {
                return null;
            }

            var number = Encoding.ASCII.GetString(bytes, position, end - position);
            var size = int.Parse(number, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            if (size == 0)
            {
                return Encoding.UTF8.GetString(body.ToArray());
            }

            if (end + 2 + size > bytes.Length)
            {
                return null;
            }

            body.Write(bytes, end + 2, size);
            position = end + 2 + size + 2;
        }
    }
}
