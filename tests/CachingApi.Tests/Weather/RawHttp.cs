using System.Globalization;
using System.Net.Sockets;
using System.Text;

namespace CachingApi.Tests.Weather;

/// <summary>Requests whose path no client library has changed.</summary>
internal static class RawHttp
{
    public static async Task<(int Status, string Headers)> GetAsync(Uri server, string path)
    {
        using var client = new TcpClient();
        await client.ConnectAsync(server.Host, server.Port);
        await using var stream = client.GetStream();
        await stream.WriteAsync(Encoding.ASCII.GetBytes($"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        using var reader = new StreamReader(stream);
        var answer = await reader.ReadToEndAsync();
        return (int.Parse(answer.Split(' ')[1], CultureInfo.InvariantCulture), answer.Split("\r\n\r\n")[0]);
    }
}
